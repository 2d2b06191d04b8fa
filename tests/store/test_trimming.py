"""What was kept for long enough goes in small bites, never what is owed, on each engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.core.breaker import Breaker
from relay.core.delivery import OPEN, Delivery, Replay
from relay.core.event import Event
from relay.core.ledger import Callback, Deed
from relay.core.steering import JobCancelled
from relay.store import trimming
from relay.store.contract import EventFilter, Store
from relay.store.trimming import Kind
from tests.core.builders import JOB_ID, NOW_MS, accepted, answered, asked, report, started, submitted
from tests.store.serving import Writes, apply_all, opened, queued

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("engine")]

YOUNG_MS = NOW_MS + 1_000
ROWS = 2


def event(seq: int, at_ms: int = NOW_MS) -> Event:
    return Event(seq=seq, epoch="0a1b2c3d", type="job.failed", job_id=f"job-{seq}", at_ms=at_ms, data={})


def delivery(event_seq: int, state: Any, name: str = "a") -> Delivery:
    return Delivery(
        id=f"{event_seq}-{name}",
        subscription_id=name,
        event_seq=event_seq,
        event_id=f"0a1b2c3d-{event_seq}",
        event_type="job.failed",
        job_id=f"job-{event_seq}",
        state=state,
        due_at_ms=NOW_MS,
        created_at_ms=NOW_MS,
        finished_at_ms=None if state in OPEN else NOW_MS,
    )


async def rows(store: Any, kind: type[Any]) -> list[Any]:
    return list(await store._list(kind, "WHERE TRUE", {}))


async def trimmed(path: Path, kinds: Sequence[Kind] = ("deliveries", "events")) -> None:
    """Bite after bite, each in a life of its own, as if the relay was killed behind it; whatever stands is whole."""
    while True:
        gone = 0
        for kind in kinds:
            async with opened(path) as store:
                bite = await store.trim(kind, YOUNG_MS, ROWS)
                assert bite <= ROWS
                await is_whole(store)
                gone += bite
        if not gone:
            return


async def is_whole(store: Store) -> None:
    """The log has no holes up to its head, and whatever is owed or has come to an end still has its event."""
    seqs = [event.seq for event in await store.events_after(0, EventFilter(), 100)]
    assert seqs == list(range(await store.earliest(), await store.head() + 1))
    assert {d.event_seq for d in await rows(store, Delivery)} <= set(seqs)


async def test_the_log_goes_from_its_start_as_far_as_nothing_is_owed(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    deliveries = [
        *(delivery(1, "delivered"), delivery(2, "dead"), delivery(2, "superseded", "b"), delivery(2, "delivered", "c")),
        *(delivery(4, "delivered"), delivery(5, "delivered"), delivery(5, "waiting", "b"), delivery(6, "dead")),
    ]
    async with opened(path) as store:
        events = [*(event(seq) for seq in range(1, 8)), event(8, YOUNG_MS), event(9)]
        await store.apply(Writes((*events, *deliveries)))
    await trimmed(path)
    async with opened(path) as store:
        kept = [event.seq for event in await store.events_after(0, EventFilter(), 100)]
        left = sorted(row.id for row in await rows(store, Delivery))
        head = await store.head()
        owed = next(row for row in await rows(store, Delivery) if row.id == "5-b")
        await store.apply(Writes((delivery(10, "due"), event(10))))
        await store.apply(Writes((Delivery(**_ended(owed)),)))
    await trimmed(path)
    async with opened(path) as store:
        then = [event.seq for event in await store.events_after(0, EventFilter(), 100)]
        still = [row.id for row in await rows(store, Delivery)]

    assert (kept, head) == ([5, 6, 7, 8, 9], 9)
    assert left == ["5-a", "5-b", "6-a"]
    assert then == [8, 9, 10], "what is young keeps what is behind it"
    assert still == ["10-a"]


def _ended(owed: Delivery) -> dict[str, Any]:
    names = {name: getattr(owed, name) for name in Delivery.__dataclass_fields__}
    return names | {"state": "delivered", "finished_at_ms": NOW_MS}


async def test_a_log_that_is_gone_altogether_goes_on_with_the_next_number(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    async with opened(path) as store:
        await store.apply(Writes(tuple(event(seq) for seq in (1, 2, 3))))
    await trimmed(path)
    async with opened(path) as store:
        empty = (await store.earliest(), await store.head())
        await store.apply(submitted())
        following = [event.seq for event in await store.events_after(0, EventFilter(), 10)]

    assert empty == (4, 3)
    assert following == [4]


async def test_callbacks_go_that_are_old_and_whose_job_has_ended_or_is_gone(tmp_path: Path) -> None:
    def came(job_id: str, number: int, at_ms: int = NOW_MS) -> Callback:
        made: dict[str, Any] = {"body": b"{}", "sha256": f"{number:064x}", "size_bytes": 2, "content_type": "x/y"}
        return Callback(job_id=job_id, number=1, at_ms=at_ms, effect="progress", status=None, progress=None, **made)

    path = tmp_path / "relay.db"
    async with opened(path) as store:
        await apply_all(store, submitted(), started(), answered(accepted()), queued("ended"))
        await store.apply(JobCancelled("ended", NOW_MS))
        runs = [came(JOB_ID, n) for n in range(3)]
        await store.apply(Writes((*runs, came("ended", 3), came("ended", 4), came("nobody's", 5))))
        await store.apply(Writes((came("ended", 6), came("ended", 7, YOUNG_MS))))
        bites = [await store.trim("callbacks", YOUNG_MS, ROWS) for _ in range(3)]
        left = [int(row.sha256, 16) for row in await rows(store, Callback)]
        await store.apply(asked(report("SUCCEEDED", "1")))
        again = [await store.trim("callbacks", YOUNG_MS, ROWS) for _ in range(3)]

    assert (bites, left) == ([2, 2, 0], [0, 1, 2, 7])
    assert again == [2, 1, 0]


async def test_counts_breakers_and_replays_go_when_nothing_has_happened_for_so_long(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, queued("one"), queued("two"), JobCancelled("one", NOW_MS - 2 * 86_400_000))
        await store.apply(JobCancelled("two", NOW_MS + 2 * 86_400_000))
        quiet, tried = Breaker(place="quiet", since_ms=NOW_MS), Breaker(place="tried", since_ms=NOW_MS)
        later = Breaker(place="open", since_ms=NOW_MS, open_until_ms=YOUNG_MS)
        await store.apply(Writes((quiet, later, Breaker(place="new", since_ms=YOUNG_MS), tried)))
        before = len(await store.tallies(0))
        while await store.trim("tallies", NOW_MS, 1):
            pass
        left = {tally.figure: tally.counted for tally in await store.tallies(0)}
        bites = [await store.trim("breakers", YOUNG_MS, ROWS) for _ in range(2)]
        places = {breaker.place for breaker in await store.breakers()}
        asked: dict[str, Any] = {"selection": {}, "total": 0, "until_seq": 0, "created_at_ms": NOW_MS}
        done, running = Replay(id="done", state="done", finished_at_ms=NOW_MS, **asked), Replay(id="running", **asked)
        await store.apply(Writes((done, running)))
        replays = (await store.trim("replays", YOUNG_MS, ROWS), [row.id for row in await store.replays_running(9)])

    assert before > 0
    assert left["cancelled"] == 1
    assert (bites, places) == ([2, 0], {"open", "new"})
    assert replays == (1, ["running"])


async def test_of_the_audit_goes_what_is_old_and_what_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deed(n: int, at_ms: int) -> Deed:
        of: dict[str, Any] = {"token_id": "t", "actor": "boss", "action": "DELETE /v1/jobs/{id}", "request_id": "r"}
        return Deed(at_ms=at_ms, object=f"job {n}", **of)

    monkeypatch.setitem(trimming.BITES, "deeds", trimming.BITES["deeds"].replace(str(trimming.DEEDS_MAX), "4"))
    async with opened(tmp_path / "relay.db") as store:
        await store.apply(Writes(tuple(deed(n, NOW_MS if n < 3 else YOUNG_MS) for n in range(9))))
        bites = [await store.trim("deeds", YOUNG_MS, ROWS) for _ in range(4)]
        left = await store.deeds({}, None, 10)

    assert bites == [2, 2, 1, 0]
    assert [line.object for line in left] == ["job 8", "job 7", "job 6", "job 5"]
