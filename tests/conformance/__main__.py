"""`python -m tests.conformance --url URL --token TOKEN`: every check, whether it is kept, and where it is written."""

import asyncio
import sys
from ipaddress import ip_address
from urllib.parse import urlsplit

import click
import httpx2

from tests.conformance.suite import ALL
from tests.conformance.target import Check, Target

# Long enough for two heartbeats.
PATIENCE_S = 60.0
AT_ONCE = 4


async def verdict(target: Target, check: Check, places: asyncio.Semaphore) -> tuple[str, str]:
    """`ok`, `FAILED` or `-`, and why."""
    if missing := check.missing(target):
        return "-", f"not looked at: needs {', '.join(missing)}"
    async with places:
        failure = await check.failure(target)
    return ("FAILED", failure) if failure else ("ok", "")


async def run(url: str, token: str, origin: str | None, checks: list[Check], *, verify: bool) -> bool:
    """Look at all, a few at once, as some wait for heartbeats; print a line for each. False when one has failed."""
    names, sources = max(len(check.name) for check in checks), max(len(check.source) for check in checks)
    places, verdicts = asyncio.Semaphore(AT_ONCE), []
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_S, verify=verify) as client:
        target = Target(client, token, origin, PATIENCE_S)
        looking = [asyncio.create_task(verdict(target, check, places)) for check in checks]
        for check, task in zip(checks, looking, strict=True):
            found, why = await task
            verdicts.append(found)
            print(f"{found:6}  {check.name:{names}}  {check.source:{sources}}  {why}".rstrip(), flush=True)
    print(f"\n{verdicts.count('ok')} kept, {verdicts.count('FAILED')} failed, {verdicts.count('-')} not looked at")
    return "FAILED" not in verdicts


def here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@click.command()
@click.option("--url", required=True, help="The relay's address.")
@click.option("--token", required=True, help="A token with all scopes.")
@click.option("--origin", help="An origin of RELAY_CORS_ORIGINS; without one, the checks that need it are left out.")
@click.option("--only", default="", help="Only checks whose name has this in it.")
@click.option("--insecure", is_flag=True, help="Take any certificate.")
@click.option("--submit-there", is_flag=True, help="Submit jobs to an address that is not this machine's.")
def main(url: str, token: str, origin: str | None, only: str, *, insecure: bool, submit_there: bool) -> None:
    """Check a relay's event doors. It submits jobs: use it where the sandbox is behind, or they cost money."""
    if not (here(url) or submit_there):
        raise click.UsageError("the checks submit jobs; give --submit-there if the sandbox is behind that relay")
    checks = [check for check in ALL if only in check.name]
    if not checks:
        raise click.UsageError(f"no check has {only!r} in its name")
    sys.exit(0 if asyncio.run(run(url, token, origin, checks, verify=not insecure)) else 1)


main()
