"""Asks the upstream: does it take the token, which accounts has it, and does its clock show our time."""

from collections.abc import Iterator
from typing import Final

from relay.core.accounts import SeenAccount
from relay.core.outcome import Unanswered
from relay.core.skew import OFF_IN_A_ROW, OFF_MS
from relay.doctor.finding import Finding
from relay.net.upstream import Upstream
from relay.settings import Settings

UNKNOWN: Final = "set RELAY_UPSTREAM_TOKEN to the token that the upstream's page shows you"
AWAY: Final = "look at RELAY_UPSTREAM_URL, and at this machine's way out; jobs wait until the upstream answers"
NO_ACCOUNT: Final = "set one up at the upstream: without it no job can start"
BROKEN: Final = "sign in to it anew at the upstream; until then it gets no jobs"
WRONG_CLOCK: Final = "have the clock set by NTP: webhooks are signed, and addresses expire, by the wrong time"


async def examine(settings: Settings) -> list[Finding]:
    """By questions that cost nothing, as many as it takes to be sure of the clock."""
    found: list[SeenAccount] = []
    asking = Upstream(settings.upstream_url, settings.upstream_token.get_secret_value())
    try:
        for _ in range(OFF_IN_A_ROW):
            answer = await asking.accounts()
            if isinstance(answer, Unanswered):
                remedy = UNKNOWN if answer.unauthorized else AWAY
                said = f"{settings.upstream_url}: {answer.message}"
                return [Finding("upstream", "failure", said, remedy), Finding("clock", "skipped", "nobody to ask")]
            found = answer
        off_ms = asking.off_ms()
    finally:
        await asking.aclose()
    return [
        Finding("upstream", "ok", f"{settings.upstream_url} takes the token"),
        *_accounts(found, settings.accounts),
        _clock(off_ms),
    ]


def _accounts(found: list[SeenAccount], chosen: tuple[SeenAccount, ...] | None) -> Iterator[Finding]:
    known = {account.email for account in found}
    for strange in [account.email for account in chosen or () if account.email not in known]:
        remedy = "correct RELAY_ACCOUNTS: no job of it can start"
        yield Finding("account", "failure", f"the upstream has no account {strange}", remedy)
    for account in found:
        if account.error:
            yield Finding("account", "warning", f"{account.email}: {account.error}", BROKEN)
        else:
            yield Finding("account", "ok", f"{account.email}: {account.slots} at once")
    if not found:
        yield Finding("account", "failure", "the upstream has no account", NO_ACCOUNT)


def _clock(off_ms: int | None) -> Finding:
    if off_ms is None:
        return Finding("clock", "ok", f"within {OFF_MS // 1000} s of the upstream's, by the dates of its answers")
    way = "ahead of" if off_ms < 0 else "behind"
    return Finding(
        "clock", "failure", f"this machine's is {abs(off_ms) / 1000:,.0f} s {way} the upstream's", WRONG_CLOCK
    )
