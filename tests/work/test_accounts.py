"""The list of accounts: asked for again and again, and the last answer holds while nobody answers."""

from pathlib import Path

import pytest

from relay.core.accounts import SeenAccount
from relay.core.outcome import Unanswered
from relay.store.contract import EventFilter
from relay.work.accounts import REFRESH_MS, RETRY_MS, AccountKeeper
from tests.work.bench import EMAIL, Bench, bench, steps

pytestmark = pytest.mark.anyio


def keeper(here: Bench, *given: SeenAccount) -> AccountKeeper:
    return AccountKeeper(here.store, here.feed, here.clock, here.upstream, given=given)


async def slots(here: Bench) -> dict[str, int]:
    return {account.email: account.slots for account in await here.store.accounts()}


async def test_accounts_are_asked_for_every_few_minutes(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        here.upstream.seen = [SeenAccount(EMAIL, 3), SeenAccount("new@example.com", 1)]
        worker = keeper(here)
        due_ms = await steps(worker)
        assert due_ms == here.clock.now_ms() + REFRESH_MS
        assert await slots(here) == {EMAIL: 3, "new@example.com": 1}
        here.upstream.seen = [SeenAccount("new@example.com", 2)]
        await steps(worker)
        assert await slots(here) == {EMAIL: 3, "new@example.com": 1}
        here.clock.advance(REFRESH_MS / 1000)
        await steps(worker)

        assert await slots(here) == {EMAIL: 0, "new@example.com": 2}


async def test_while_the_upstream_does_not_answer_the_last_answer_holds(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        here.upstream.seen = Unanswered("522")
        await here.submit(pinned="nobody@example.com")
        due_ms = await steps(keeper(here))

        assert due_ms == here.clock.now_ms() + RETRY_MS
        assert await slots(here) == {EMAIL: 2}
        assert await here.states() == ["queued"], "nobody knows that the account is gone"


async def test_a_token_that_is_refused_is_told_once_stops_all_and_is_told_when_it_is_good_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        worker = keeper(here)
        here.upstream.seen = Unanswered("Unauthorized", unauthorized=True)
        for _ in range(3):
            await steps(worker)
            here.clock.advance(RETRY_MS / 1000)
        [account] = await here.store.accounts()
        assert (account.parked, account.retry_at_ms > here.clock.now_ms()) == ("unauthorized", True)
        here.upstream.seen = [SeenAccount(EMAIL, 2)]
        await steps(worker)
        [account] = await here.store.accounts()
        events = await here.store.events_after(0, EventFilter(), 9)

        assert (account.parked, account.retry_at_ms) == (None, 0)
        assert [event.type for event in events] == ["upstream.down", "upstream.up"]


async def test_given_accounts_are_not_asked_for(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        here.upstream.seen = Unanswered("must not be asked")
        await steps(keeper(here, SeenAccount("given@example.com", 5)))

        assert await slots(here) == {EMAIL: 0, "given@example.com": 5}


async def test_a_job_that_only_a_vanished_account_could_run_fails(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        gone = await here.submit(pinned="gone@example.com")
        await here.submit(pinned=EMAIL)
        await steps(keeper(here))
        job = await here.job(gone.id)

        assert await here.states() == ["failed", "queued"]
        assert job.error is not None
        assert job.error["code"] == "account_gone"


async def test_a_clock_that_was_set_back_does_not_put_the_next_look_off(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        worker = keeper(here)
        await steps(worker)
        here.upstream.seen = [SeenAccount(EMAIL, 1)]
        here.clock.jump_wall(-86_400)
        await steps(worker)

        assert await slots(here) == {EMAIL: 1}
