"""The feed wakes everybody who waits for a commit, and nobody for nothing."""

import asyncio

import pytest

from relay.core.event import Event
from relay.feed import KEPT_EVENTS, Feed

pytestmark = pytest.mark.anyio


async def waiters(feed: Feed, count: int) -> list["asyncio.Task[None]"]:
    """Tasks that wait for the next commit, already asleep."""
    tasks = [asyncio.create_task(feed.changed(feed.generation)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_one_commit_wakes_all_who_wait() -> None:
    feed = Feed()
    tasks = await waiters(feed, 100)
    feed.committed(7)
    await asyncio.gather(*tasks)
    assert (feed.head, feed.generation) == (7, 1)


async def test_nobody_is_woken_without_a_commit() -> None:
    feed = Feed()
    (task,) = await waiters(feed, 1)
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()


async def test_a_commit_between_reading_and_waiting_is_not_missed() -> None:
    feed = Feed()
    seen = feed.generation
    feed.committed(1)
    await feed.changed(seen)


async def test_the_head_never_falls() -> None:
    feed = Feed()
    for head in (5, 3, 0):
        feed.committed(head)
    assert (feed.head, feed.generation) == (5, 3)


async def test_whoever_gives_up_does_not_take_the_others_with_it() -> None:
    feed = Feed()
    gone, stays = await waiters(feed, 2)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert not stays.done()
    feed.committed(1)
    await stays


async def test_each_commit_wakes_those_who_wait_again() -> None:
    feed = Feed()
    for head in range(1, 4):
        (task,) = await waiters(feed, 1)
        feed.committed(head)
        await task
    assert feed.head == 3


async def test_closing_wakes_everybody_for_the_last_time_and_lets_nobody_wait_again() -> None:
    feed = Feed()
    tasks = await waiters(feed, 3)
    feed.close()
    await asyncio.gather(*tasks)
    assert feed.closing
    await feed.changed(feed.generation)


def event(seq: int, job_id: str = "a job") -> Event:
    return Event(seq=seq, epoch="0000cafe", type="job.progress", job_id=job_id, at_ms=0, data={})


async def test_whoever_waits_for_a_job_sleeps_through_the_commits_of_others() -> None:
    feed = Feed()
    one, other = (asyncio.create_task(feed.changed(0, job_id)) for job_id in ("one", "other"))
    await asyncio.sleep(0)
    feed.committed(1, [event(1, "one")])
    async with asyncio.timeout(5):
        await one
    await asyncio.sleep(0)
    assert not other.done()
    feed.committed(2, [event(2, "other")])
    async with asyncio.timeout(5):
        await other
    assert feed._waits == {}, "nothing is kept of those who are gone"


async def test_the_newest_events_are_there_for_those_who_follow_closely() -> None:
    feed = Feed()
    feed.committed(1, [event(1)])
    feed.committed(3, [event(2), event(3)])
    assert [[one.seq for one in feed.after(seq) or []] for seq in range(5)] == [[1, 2, 3], [2, 3], [3], [], []]


@pytest.mark.parametrize(
    ("head", "events"),
    [(9, []), (9, [event(9)]), (3, [event(1)])],
    ids=["of which it was not told", "of which it was told in part", "that were written anew"],
)
async def test_where_events_are_missing_only_the_store_has_them(head: int, events: list[Event]) -> None:
    feed = Feed()
    feed.committed(3, [event(1), event(2), event(3)])
    feed.committed(head, events)
    assert feed.after(0) is None
    feed.committed(head + 1, [event(head + 1)])
    assert feed.after(head) == [event(head + 1)]
    assert feed.after(head - 1) is None


async def test_what_is_kept_has_a_bound() -> None:
    feed = Feed()
    for seq in range(1, KEPT_EVENTS + 2):
        feed.committed(seq, [event(seq)])
    assert feed.after(0) is None
    assert len(feed.after(1) or []) == KEPT_EVENTS
