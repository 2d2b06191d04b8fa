"""The store's questions: each finds what it should, in its order, and no more than it was asked for."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.core.breaker import Breaker
from relay.core.delivering import DeliveriesClaimed, SubscriptionRemoved, SubscriptionSaved
from relay.core.delivery import Selection
from relay.store.contract import EventFilter, JobFilter
from tests.core.builders import (
    EMAIL,
    JOB_ID,
    NOW_MS,
    TASK_ID,
    accepted,
    answered,
    asked,
    callback,
    job,
    reply_ref,
    report,
    started,
    submitted,
    subscription,
    task_body,
)
from tests.store.serving import Writes, apply_all, opened, queued

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("engine")]


async def test_a_job_is_found_by_each_of_its_ids(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, submitted(), started(), answered(accepted()))
        for any_id in (JOB_ID, job().task_id, TASK_ID):
            found = await store.job(any_id)
            assert found is not None
            assert found.id == JOB_ID
        assert await store.job("another") is None


async def test_jobs_are_listed_newest_first_by_filter_and_page(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        for n, model in enumerate(["gen4.5", "sora-2", "gen4.5", "veo-3.1"]):
            await store.apply(queued(f"job-{n}", model=model, reply_ref=f"ref-{n % 2}", created_at_ms=NOW_MS + n))

        async def names(before: int | None = None, limit: int = 9, **wanted: Any) -> list[str]:
            return [job.id[-1] for job in await store.jobs(JobFilter(**wanted), before, limit)]

        assert await names(limit=2) == ["3", "2"]
        second = (await store.jobs(JobFilter(), None, 2))[-1].seq
        assert await names(second, 2) == ["1", "0"]
        assert await names(model=("gen4.5", "veo-3.1"), reply_ref=("ref-0",)) == ["2", "0"]
        assert await names(since_ms=NOW_MS + 1, until_ms=NOW_MS + 3) == ["2", "1"]
        assert await names(state=("running",)) == []


async def test_the_queue_is_ordered_by_priority_then_age_and_knows_every_place(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, queued("old"), queued("pinned", pinned=EMAIL), queued("urgent", priority=5))
        await apply_all(store, queued("later", priority=-1), queued("elsewhere", pinned="b@example.com"))
        assert [one.job_id for one in await store.waiting([EMAIL], [], 9)] == ["urgent"]
        assert [one.job_id for one in await store.queue(3)] == ["urgent", "old", "pinned"]
        assert [one.job_id for one in await store.stranded([EMAIL], 9)] == ["elsewhere"]
        places = await store.queue_positions(await store.jobs(JobFilter(), None, 9))
        assert places == {"urgent": 1, "old": 2, "pinned": 3, "elsewhere": 4, "later": 5}
        assert await store.count_by_state() == {"queued": 5}


async def test_tokens_take_turns_in_the_queue(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, *(queued(f"a{n}", token_id="a") for n in range(3)), queued("b0", token_id="b"))
        await apply_all(store, queued("c-other", token_id="c", pinned="x@example.com"), queued("c0", token_id="c"))
        await apply_all(store, queued("b-first", token_id="b", priority=1))
        heads = [(one.token_id, one.job_id) for one in await store.waiting([EMAIL], [], 9)]
        assert heads == [("a", "a0"), ("b", "b-first"), ("c", "c0")]
        assert await store.waiting([], [], 9) == []
        order = [one.job_id for one in await store.queue(9)]
        assert order == ["a0", "b-first", "c-other", "a1", "b0", "c0", "a2"]
        jobs = {job.id: job for job in await store.jobs(JobFilter(), None, 9)}
        # How the turns stand is not counted: at most one turn earlier or later.
        assert await store.queue_positions([jobs[name] for name in ("a0", "a1", "a2", "b0")]) == {
            "a0": 3, "a1": 6, "a2": 7, "b0": 6,
        }  # fmt: skip


async def test_explore_jobs_are_seen_where_one_may_go(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, submitted(mode="explore", priority=1), queued("paid"))
        assert [one.job_id for one in await store.waiting([EMAIL], [], 9)] == ["paid"]
        [first] = await store.waiting([EMAIL], [EMAIL], 9)
        assert (first.job_id, first.mode, first.model) == (job().id, "explore", "gen4.5")
        await store.apply(started())
        assert await store.exploring() == {EMAIL}
        assert [(task.mode, task.expected_ms) for task in await store.running(9)] == [("explore", 600_000)]


async def test_what_tasks_took_is_learned_from_the_last_that_succeeded(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        for number in (1, 2, 3):
            task_id = f"{TASK_ID[:-1]}{number}"
            door = {"job_id": job(number).id, "door": f"hash-{number}"}
            await apply_all(store, submitted(number), started(NOW_MS + number, **door))
            created = accepted(taskId=task_id, replyRef=reply_ref(1, job(number).id))
            await store.apply(replace(answered(created, NOW_MS), job_id=job(number).id))
            ended = asked(report("SUCCEEDED", "1", taskId=task_id), NOW_MS + number * 60_000)
            await store.apply(replace(ended, job_id=job(number).id))
        assert await store.took_ms("gen4.5", "credits", 2) == [180_000, 120_000]
        assert await store.took_ms("gen4.5", "explore", 2) == []


async def test_attempts_are_asked_about_when_they_are_due(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, submitted(), started())
        assert [one.number for one in await store.attempts_sending()] == [1]
        assert (await store.busy(), await store.next_ask_ms(0)) == ({EMAIL: 1}, None)
        await store.apply(answered(accepted()))
        assert (await store.attempts_due(NOW_MS + 29_999, 9), await store.next_ask_ms(NOW_MS)) == ([], NOW_MS + 30_000)
        assert [one.number for one in await store.attempts_due(NOW_MS + 30_000, 9)] == [1]
        await store.apply(asked(report("SUCCEEDED", "1")))
        assert (await store.busy(), await store.attempts_due(NOW_MS * 2, 9), await store.attempts_sending()) == (
            {},
            [],
            [],
        )


async def test_due_deliveries_are_shared_out_so_that_no_subscription_takes_all_places(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        for name in ("a", "b", "off"):
            await store.apply(SubscriptionSaved(subscription(name, state="paused" if name == "off" else "active")))
        for n in range(4):
            await store.apply(queued(f"job-{n}"))

        async def due(room: int, limit: int = 99, at_ms: int = NOW_MS) -> list[str]:
            return [one.place for one in await store.deliveries_due(at_ms, room, limit)]

        assert sorted(await due(3)) == ["a"] * 3 + ["b"] * 3
        assert len(await due(3, limit=2)) == 2
        assert await due(3, at_ms=NOW_MS - 1) == []
        to_a = [one.delivery_id for one in await store.deliveries_due(NOW_MS, 3, 99) if one.place == "a"]
        taken = await store.apply(DeliveriesClaimed(tuple(to_a[:2]), NOW_MS + 60_000, NOW_MS))
        assert [one.id for one, _ in taken] == to_a[:2]
        assert sorted(await due(3)) == ["a"] + ["b"] * 3
        assert await due(2) == ["b"] * 2
        assert (await store.next_due_ms(1), await store.next_due_ms(0)) == (NOW_MS, None)


async def test_a_place_that_fails_gets_one_and_one_whose_breaker_is_open_gets_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        for name in ("well", "failing", "open"):
            await store.apply(SubscriptionSaved(subscription(name)))
        for n in range(4):
            await store.apply(queued(f"job-{n}"))
        later_ms = NOW_MS + 60_000
        failing = Breaker(place="failing", since_ms=NOW_MS, failures=1)
        is_open = Breaker(place="open", since_ms=NOW_MS, failures=9, opened=2, open_until_ms=later_ms)
        await store.apply(Writes((failing, is_open)))

        async def due(at_ms: int) -> Counter[str]:
            return Counter(one.place for one in await store.deliveries_due(at_ms, 3, 99))

        assert await due(later_ms - 1) == {"well": 3, "failing": 1}
        assert await due(later_ms) == {"well": 3, "failing": 1, "open": 1}
        assert await store.next_due_ms(3) == NOW_MS
        assert {one.place for one in await store.breakers()} == {"failing", "open"}


async def test_jobs_whose_own_addresses_are_alike_share_their_places(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        for n in range(4):
            await store.apply(SubscriptionSaved(subscription(f"of-{n}", job_id=f"job-{n}")))
            await store.apply(queued(f"job-{n}"))
        found = await store.deliveries_due(NOW_MS, 3, 99)
        assert {one.place for one in found} == {subscription().url_shown}
        assert len(found) == 3
        ids = tuple(one.delivery_id for one in found)
        taken = await store.apply(DeliveriesClaimed(ids, NOW_MS + 60_000, NOW_MS))
        assert {delivery.id for delivery, _ in taken} == set(ids)
        assert (await store.deliveries_due(NOW_MS, 3, 99), await store.next_due_ms(3)) == ([], None)


async def test_what_is_being_sent_is_found_by_its_lease(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, SubscriptionSaved(subscription()), queued("a"))
        (delivery,) = await store.deliveries(Selection(state=("due",)), None, 9)
        await store.apply(DeliveriesClaimed((delivery.id,), NOW_MS + 60_000, NOW_MS))
        assert await store.deliveries_sending(NOW_MS + 60_000, 9) == []
        for before_ms in (NOW_MS + 60_001, None):
            assert [one.id for one in await store.deliveries_sending(before_ms, 9)] == [delivery.id]


async def test_events_are_read_on_from_any_number_and_by_filter(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        assert (await store.head(), await store.earliest(), await store.seq_at(NOW_MS)) == (0, 1, 0)
        for n in range(3):
            await store.apply(queued(f"job-{n}", reply_ref=f"ref-{n}", created_at_ms=NOW_MS + n))

        async def seqs(after: int = 0, limit: int = 9, **wanted: Any) -> list[int]:
            return [event.seq for event in await store.events_after(after, EventFilter(**wanted), limit)]

        assert (await seqs(), await seqs(1), await seqs(0, 1), await seqs(3)) == ([1, 2, 3], [2, 3], [1], [])
        assert await seqs(job_id=("job-0", "job-2")) == [1, 3]
        assert await seqs(reply_ref=("ref-1",), type=("job.queued",)) == [2]
        assert await seqs(type=("job.failed",)) == []
        assert (await store.earliest(), await store.seq_at(NOW_MS + 2)) == (1, 2)


@pytest.mark.parametrize(
    ("entries", "bytes_", "left"), [(2, 10**9, 2), (9, 10**9, 5), (9, 25, 2), (9, 9, 0), (0, 0, 0), (9, 50, 5)]
)
async def test_of_the_quarantine_the_oldest_go(tmp_path: Path, entries: int, bytes_: int, left: int) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, submitted(), started())
        for n in range(5):
            await store.apply(callback(f"spam {n}....".encode()[:10]))
        assert sum([await store.trim_quarantine(entries, bytes_, 3) for _ in range(2)]) == 5 - left
        assert [row.body[5:6] for row in await store.quarantine(None, 9)] == [b"4", b"3", b"2", b"1", b"0"][:left]


async def test_callbacks_are_kept_as_they_came_in_their_order(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, submitted(), started(), answered(accepted()))
        for progress in ("0.1", "0.2", "0.2"):
            await store.apply(callback(task_body("RUNNING", progress)))
        first, second = await store.callbacks(JOB_ID, 0, 9)
        assert (first.progress, second.progress) == (0.1, 0.2)
        assert b'"progressRatio": "0.1"' in first.body
        assert await store.callbacks(JOB_ID, first.seq, 9) == [second]


async def test_a_removed_subscription_leaves_dead_letters(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, SubscriptionSaved(subscription()), queued("a"), SubscriptionRemoved("sub-1", NOW_MS + 1))
        (dead,) = await store.deliveries(Selection(), None, 9)
        assert (dead.state, dead.reason, dead.finished_at_ms) == ("dead", "the subscription was removed", NOW_MS + 1)
        assert await store.subscriptions() == []
