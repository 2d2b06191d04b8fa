"""The feed wakes everybody who waits for a commit, and nobody for nothing."""

import asyncio

import pytest

from relay.feed import Feed

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
