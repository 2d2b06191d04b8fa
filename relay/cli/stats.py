"""`relay stats`: how many jobs came to which end, and how long they took, by model and by account."""

from typing import Any

import click

from relay.cli.remote import ask, of_relay, print_json, print_table

COLUMNS = ("of", "succeeded", "failed", "cancelled", "success", "wait p50/p90", "render p50/p90", "429s")


@click.command(help="Show how many jobs came to which end, and how long they waited and rendered.")
@click.option("--since", help="A time (ISO 8601), or so long ago: 24h, 30d; seven days if left out.")
@of_relay
def command(url: str, token: str, as_json: bool, since: str | None) -> None:
    found = ask(url, token, lambda client: client.stats(since))
    if as_json:
        print_json(found)
        return
    rows = [("all", found)]
    rows += [(row["model"], row) for row in found["models"]] + [(row["account"], row) for row in found["accounts"]]
    print_table((_row(name, row) for name, row in rows), *COLUMNS)
    now = ", ".join(f"{found['jobs'][state]} {state}" for state in ("queued", "submitting", "running", "in_doubt"))
    click.echo(f"since {found['since']}\nnow {now}")


def _row(name: str, row: dict[str, Any]) -> tuple[Any, ...]:
    jobs, rate = row["jobs"], row["successRate"]
    success = None if rate is None else f"{rate:.1%}"
    both = [(row[part]["p50"], row[part]["p90"]) for part in ("waitS", "renderS")]
    times = [None if half is None else f"{half:g}/{most:g} s" for half, most in both]
    return name, jobs["succeeded"], jobs["failed"], jobs["cancelled"], success, *times, row.get("busyAnswers")
