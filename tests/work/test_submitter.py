"""What goes to the upstream is on disk first, and what may have been paid for is never sent again."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from relay.core.accounts import AccountsListed, SeenAccount
from relay.core.dispatch import BUSY_STEPS_MS, PARKED_MS, UPSTREAM_DOWN_MS, Waiting
from relay.core.estimate import typical_ms
from relay.core.job import Job
from relay.core.outcome import Accepted, BadToken, Busy, NoCredits, NotSent, Outcome, Refused, RunningTask, Unknown
from relay.core.submitting import AttemptAnswered
from relay.sandbox.admission import built_in
from relay.store.driver import sqlite3
from relay.work import loop
from tests.journeys import eventually
from tests.work.bench import EMAIL, bench, report, steps, task_id

pytestmark = pytest.mark.anyio


async def test_an_attempt_is_on_disk_before_its_request_is_written(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        job = await here.submit(reply_ref="client's own", request={"model": "m", "replyRef": "x", "maxJobs": 3})
        here.upstream.answering.clear()
        worker = here.submitter("https://relay.example.com/callbacks")
        await worker.step()
        await eventually(lambda: bool(here.upstream.created))
        with sqlite3.connect(f"file:{tmp_path / 'relay.db'}?mode=ro", uri=True) as database:
            rows = database.execute("SELECT job_id, number, state, reply_ref FROM attempts").fetchall()
        database.close()
        here.upstream.answering.set()
        await steps(worker)
        sent = here.upstream.created[0]
        now = await here.job(job.id)

    reply_ref = f"relay:{here.store.instance}:{job.id}:1"
    assert rows == [(job.id, 1, "sending", reply_ref)]
    assert sent.pop("replyUrl").startswith("https://relay.example.com/callbacks/")
    assert sent == {"model": "m", "email": EMAIL, "replyRef": reply_ref}
    assert (now.state, now.upstream_task_id) == ("running", task_id(1))


async def test_without_an_address_no_reply_url_is_sent(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.submit()
        await steps(here.submitter())

    assert "replyUrl" not in here.upstream.created[0]


async def test_no_more_is_sent_than_there_are_slots(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        for _ in range(5):
            await here.submit()
        await steps(here.submitter())

        assert await here.states() == ["running", "running", "queued", "queued", "queued"]
        assert len(here.upstream.created) == 2


async def test_of_several_relays_one_that_stood_still_sends_nothing_that_was_given_up_meanwhile(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        job = await here.submit()
        worker, found = here.submitter(lease_s=120.0), here.store.job

        async def after_a_standstill(any_id: str) -> Job | None:
            here.store.job = found  # type: ignore[method-assign]
            here.clock.advance(121)
            assert await here.submitter(lease_s=120.0).recover() == 1
            assert (await here.job(job.id)).state == "in_doubt"
            return await found(any_id)

        here.store.job = after_a_standstill  # type: ignore[method-assign]
        await worker.step()
        await eventually(lambda: worker.under_way == 0)

        assert here.upstream.created == []
        assert (await here.job(job.id)).state == "in_doubt"


async def test_an_attempt_in_doubt_keeps_its_slot(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        for _ in range(3):
            await here.submit()
        here.upstream.outcomes = [Unknown("cut")]
        await steps(here.submitter())

        assert await here.states() == ["in_doubt", "in_doubt", "queued"]


@pytest.mark.parametrize(
    ("outcome", "wait_ms"),
    [
        (Busy("full"), BUSY_STEPS_MS[0]),
        (NotSent("no connection"), BUSY_STEPS_MS[0]),
        (NoCredits("no credits"), PARKED_MS),
        (BadToken("unauthorized"), UPSTREAM_DOWN_MS),
    ],
)
async def test_what_was_surely_not_created_waits_and_goes_again(tmp_path: Path, outcome: Outcome, wait_ms: int) -> None:
    async with bench(tmp_path) as here:
        await here.submit()
        here.upstream.outcomes = [outcome, Accepted(report(1))]
        worker = here.submitter()
        due_ms = await steps(worker)
        assert await here.states() == ["queued"]
        assert due_ms == here.clock.now_ms() + wait_ms
        here.clock.advance(wait_ms / 1000 - 0.001)
        await steps(worker)
        assert len(here.upstream.created) == 1
        here.clock.advance(0.001)
        await steps(worker)

        assert await here.states() == ["running"]
    refs = [sent["replyRef"].rpartition(":")[2] for sent in here.upstream.created]
    assert refs == ["1", "2"]


async def test_each_refusal_in_a_row_waits_longer_up_to_a_minute(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.submit()
        here.upstream.outcomes = [Busy("full")]
        worker = here.submitter()
        waits = []
        for _ in range(6):
            due_ms = await steps(worker)
            assert due_ms is not None
            waits.append(due_ms - here.clock.now_ms())
            here.clock.advance(waits[-1] / 1000)

    assert waits == [*BUSY_STEPS_MS, BUSY_STEPS_MS[-1], BUSY_STEPS_MS[-1]]


async def test_an_account_without_credits_leaves_the_job_to_another(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        both = (SeenAccount(EMAIL, 2), SeenAccount("other@example.com", 1))
        await here.store.apply(AccountsListed(both, here.clock.now_ms()))
        await here.submit()
        here.upstream.outcomes = [NoCredits("no credits"), Accepted(report(1))]
        await steps(here.submitter())

        assert [sent["email"] for sent in here.upstream.created] == [EMAIL, "other@example.com"]
        assert await here.states() == ["running"]


async def test_tokens_take_turns_and_the_turn_survives_a_restart(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        for token in ("a", "a", "a", "b", "b"):
            await here.submit(token_id=token)
        here.upstream.outcomes = [Unknown("cut")]
        await steps(here.submitter())
        assert await here.states() == ["in_doubt", "queued", "queued", "in_doubt", "queued"]
    async with bench(tmp_path) as here:
        [account] = await here.store.accounts()

    assert account.turn == "b"


async def test_explore_jobs_go_one_after_another(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.submit(mode="explore")
        await here.submit(mode="explore")
        await here.submit()
        await steps(here.submitter())

        assert await here.states() == ["running", "queued", "running"]


async def test_what_the_upstream_admits_beyond_its_word_is_found_and_used(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        for _ in range(5):
            await here.submit()
        worker = here.submitter()
        due_ms = await steps(worker)
        assert due_ms is not None
        assert await here.states() == ["running", "running", "queued", "queued", "queued"]
        admitted = [Accepted(report(n)) for n in (3, 4)]
        here.upstream.outcomes = [*admitted, Busy("full"), Busy("full")]
        here.clock.advance((due_ms - here.clock.now_ms()) / 1000)
        await steps(worker)
        [account] = await here.store.accounts()

        assert await here.states() == ["running"] * 4 + ["queued"]
        assert (account.slots, account.allowed) == (2, 4)


async def test_an_attempt_knows_how_long_its_task_should_take(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        job = await here.submit()
        await steps(here.submitter())
        [attempt] = await here.store.attempts(job.id)

        assert attempt.expected_ms == typical_ms(built_in(), job.model)


async def test_a_refusal_ends_the_job_and_frees_its_slot(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.submit()
        here.upstream.outcomes = [Refused("moderated", "no")]
        await steps(here.submitter())

        assert await here.states() == ["failed"]
        assert await here.store.busy() == {}


async def test_a_429_that_names_the_attempt_itself_proves_that_its_task_exists(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        job = await here.submit()
        own = RunningTask(task_id(7), f"relay:{here.store.instance}:{job.id}:1")
        here.upstream.outcomes = [Busy("full", (RunningTask(task_id(8), "theirs"), own))]
        await steps(here.submitter())
        now = await here.job(job.id)

    assert (now.state, now.upstream_task_id) == ("running", task_id(7))
    assert len(here.upstream.created) == 1


async def test_a_429_that_names_another_attempt_in_doubt_finds_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        lost = await here.in_doubt()
        await here.submit()
        named = (RunningTask(task_id(7), lost.reply_ref), RunningTask(task_id(8), f"relay:{here.store.instance}:x:y"))
        here.upstream.outcomes = [Busy("full", named)]
        await steps(here.submitter())

        assert await here.states() == ["running", "queued"]
        assert (await here.job(lost.job_id)).upstream_task_id == task_id(7)


async def test_after_a_restart_what_was_on_its_way_is_in_doubt_and_not_sent_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        attempt = await here.attempted(None)
    async with bench(tmp_path) as here:
        worker = here.submitter()
        recovered = await worker.recover()
        await steps(worker)
        now = await here.job(attempt.job_id)

        assert (recovered, now.state) == (1, "in_doubt")
        assert here.upstream.created == []
        assert await worker.recover() == 0


async def test_a_mistake_of_ours_while_sending_is_no_reason_to_send_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.submit()
        here.upstream.outcomes = [ValueError("a defect")]
        worker = here.submitter()
        await steps(worker)
        here.clock.advance(3_600)
        await steps(worker)

        assert await here.states() == ["in_doubt"]
        assert len(here.upstream.created) == 1


async def test_a_stop_lets_a_create_end_and_begins_no_other(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        for _ in range(3):
            await here.submit()
        here.upstream.answering.clear()
        worker = here.submitter()
        worker.start()
        await eventually(lambda: len(here.upstream.created) == 2)
        stopping = asyncio.create_task(worker.stop())
        await asyncio.wait({stopping}, timeout=0.01)
        assert not stopping.done()
        here.upstream.answering.set()
        await stopping

        assert await here.states() == ["running", "running", "queued"]
        assert len(here.upstream.created) == 2


async def test_a_stop_does_not_wait_for_ever_and_leaves_the_truth_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STOP_S", 0.05)
    async with bench(tmp_path) as here:
        await here.submit()
        here.upstream.answering.clear()
        worker = here.submitter()
        worker.start()
        await eventually(lambda: bool(here.upstream.created))
        await worker.stop()
        on_disk = await here.store.attempts_sending()

        assert len(on_disk) == 1
        assert await here.states() == ["submitting"]


async def test_an_attempt_from_before_the_clock_was_set_back_is_in_doubt_after_a_start(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.attempted(None)
        here.clock.jump_wall(-3_600)

        assert await here.submitter().recover() == 1
        assert await here.states() == ["in_doubt"]


async def test_a_stop_between_commit_and_request_still_sends_the_request(tmp_path: Path) -> None:
    """Else the attempt, which nobody has sent, would be in doubt for hours."""
    async with bench(tmp_path) as here:
        await here.submit()
        worker = here.submitter()
        worker.start()
        await here.feed.changed(here.feed.generation)  # the attempt is on disk, and its request not yet written
        await worker.stop()

        assert await here.store.attempts_sending() == []
        assert await here.states() == ["running"]


async def test_an_answer_that_cannot_be_kept_leaves_the_job_in_doubt_and_not_under_way_for_ever(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as here:
        for _ in range(2):
            await here.submit()
        here.upstream.outcomes = [Accepted(report(1))]  # the same task for both
        await steps(here.submitter())

        assert sorted(await here.states()) == ["in_doubt", "running"]
        assert await here.store.attempts_sending() == []


async def test_a_429_that_comes_while_the_next_job_is_chosen_is_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path) as here:
        attempt = await here.attempted(None)
        read = here.store.waiting

        async def late(accounts: Sequence[str], explorable: Sequence[str], limit: int) -> list[Waiting]:
            """The accounts have been read, and now the 429 puts the job back that is then seen as waiting."""
            busy = AttemptAnswered(attempt.job_id, 1, Busy("full"), here.clock.now_ms())
            await here.store.apply(busy)
            return await read(accounts, explorable, limit)

        monkeypatch.setattr(here.store, "waiting", late)
        await steps(here.submitter())

        assert await here.states() == ["queued"]
        assert here.upstream.created == []
