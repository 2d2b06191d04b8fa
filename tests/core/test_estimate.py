"""When waiting jobs should start and end, by what those before them took."""

from relay.core.dispatch import Account, Waiting
from relay.core.estimate import Running, outlooks, typical_ms
from relay.core.job import UNKNOWN_MS, Outlook
from relay.sandbox.admission import built_in
from tests.core.builders import NOW_MS, account

MINUTE_MS = 60_000
USUAL = {("m", "credits"): 10 * MINUTE_MS}
A, B = "a@example.com", "b@example.com"


def waits(job_id: str, token_id: str = "", pinned: str | None = None) -> Waiting:
    return Waiting(job_id, pinned, token_id, "m")


def runs(email: str, minutes_ago: int, expected_minutes: int = 10) -> Running:
    return Running("", email, "credits", NOW_MS - minutes_ago * MINUTE_MS, expected_minutes * MINUTE_MS)


def starts(accounts: list[Account], running: list[Running], *waiting: Waiting) -> dict[str, float | None]:
    """Minutes until each job starts."""
    found = outlooks(NOW_MS, accounts, running, waiting, USUAL)
    return {
        job_id: None if one.starts_at_ms is None else (one.starts_at_ms - NOW_MS) / MINUTE_MS
        for job_id, one in found.items()
    }


def test_what_was_learned_goes_before_what_the_catalogue_says() -> None:
    catalogue = built_in()
    assert typical_ms(catalogue, "gen4.5", [1_000, 5_000, 2_000]) == 2_000
    assert typical_ms(catalogue, "gen4.5", [1_000] * 20 + [10**9] * 30) == 1_000
    assert typical_ms(catalogue, "nobody knows it") == UNKNOWN_MS
    fast = catalogue.models["veo-3.1"]
    assert typical_ms(catalogue, "veo-3.1") == (fast.typical_queue_s + fast.typical_render_s) * 1_000 != UNKNOWN_MS


def test_waiting_jobs_take_the_slots_in_the_order_in_which_they_become_free() -> None:
    assert starts([account(A, 2)], [runs(A, 4), runs(A, 9)], waits("1"), waits("2"), waits("3")) == {
        "1": 1, "2": 6, "3": 11,
    }  # fmt: skip


def test_a_pinned_job_waits_for_its_own_account_and_holds_up_nobody() -> None:
    assert starts([account(A, 1), account(B, 1)], [runs(A, 2)], waits("1", pinned=A), waits("2")) == {"1": 8, "2": 0}


def test_positions_follow_the_turns_of_the_tokens() -> None:
    jobs = [waits("a1", "a"), waits("a2", "a"), waits("b1", "b")]
    found = outlooks(NOW_MS, [account(A, 1, turn="a")], [], jobs, USUAL)
    assert {job_id: one.queue_position for job_id, one in found.items()} == {"b1": 1, "a1": 2, "a2": 3}


def test_slots_are_what_the_upstream_admits() -> None:
    assert starts([account(A, 3, admits=1)], [runs(A, 5)], waits("1")) == {"1": 5}


def test_a_job_that_left_the_queue_while_it_was_read_counts_once() -> None:
    gone = Running("1", A, "credits", NOW_MS, 10 * MINUTE_MS)
    assert starts([account(A, 2)], [gone], waits("1"), waits("2")) == {"2": 0}


def test_what_no_account_can_run_has_a_place_and_no_time() -> None:
    found = outlooks(NOW_MS, [account(A, 0)], [], [waits("1"), waits("2", pinned=B)], USUAL)
    assert found == {"1": Outlook(1), "2": Outlook(2)}
