"""Lists of jobs: each filter alone and with others, words of prompts, pages; and none reads or sorts a whole table."""

import json
import random
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.core.delivery import Selection
from relay.core.stats import tallied
from relay.core.steering import JobErased
from relay.core.submitting import JobGivenUp
from relay.store import reads
from relay.store.contract import EventFilter, JobFilter
from relay.store.driver import sqlite3
from relay.store.sqlite import SqliteStore
from relay.store.where import chosen_jobs
from tests.core.builders import JOB_ID, NOW_MS, accepted, answered, asked, report, started, submitted
from tests.store.serving import apply_all, opened, queued

pytestmark = pytest.mark.anyio

FILTERS: dict[str, Any] = {
    "state": ("queued", "failed"),
    "model": ("gen4.5", "sora-2"),
    "reply_ref": ("ref-1", "ref-2"),
    "account": ("a@example.com", "b@example.com"),
    "origin": ("api", "adopted"),
    "token_id": ("alice", "bob"),
    "since_ms": NOW_MS + 4,
    "until_ms": NOW_MS + 17,
    "words": ("coast",),
}


async def names(store: SqliteStore, limit: int = 99, **wanted: Any) -> list[str]:
    """The ids of all pages of a list, in their order."""
    found: list[str] = []
    before: int | None = None
    while True:
        page = await store.job_page(JobFilter(**wanted), before, limit)
        found += [job.id for job in page.jobs]
        assert len(page.jobs) <= limit
        if page.next_seq is None:
            return found
        before = page.next_seq


async def many(store: SqliteStore, count: int) -> list[dict[str, Any]]:
    """Jobs that differ in everything a list can ask for, as they were made."""
    chance, made = random.Random(7), []  # noqa: S311 - chance, not a secret
    for n in range(count):
        one: dict[str, Any] = {
            "model": chance.choice(("gen4.5", "sora-2", "veo-3.1")),
            "reply_ref": chance.choice((None, "ref-1", "ref-2", "ref-3")),
            "account": chance.choice((None, "a@example.com", "b@example.com", "c@example.com")),
            "origin": chance.choice(("api", "dropin", "adopted")),
            "token_id": chance.choice(("alice", "bob", "carol")),
            "state": chance.choice(("queued", "failed", "succeeded", "cancelled")),
            "created_at_ms": NOW_MS + n - (3 if n % 5 == 0 else 0),
        }
        prompt = chance.choice(("A coast at dusk", "Waves, a COAST", "Coastal roads", "a forest"))
        await store.apply(queued(f"job-{n:03}", request={"model": one["model"], "text_prompt": prompt}, **one))
        made.append({**one, "id": f"job-{n:03}", "prompt": prompt})
    return made


def expected(made: list[dict[str, Any]], wanted: dict[str, Any]) -> list[str]:
    def holds(one: dict[str, Any]) -> bool:
        words = re.findall(r"\w+", one["prompt"].lower())
        return (
            all(one[name] in values for name, values in wanted.items() if name in one)
            and one["created_at_ms"] >= wanted.get("since_ms", 0)
            and one["created_at_ms"] < wanted.get("until_ms", 2**62)
            and all(word in words for word in wanted.get("words", ()))
        )

    return [one["id"] for one in reversed(made) if holds(one)]


async def test_every_two_filters_together_find_what_they_say_in_pages_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few are looked at for one page that many pages end before they are full.
    monkeypatch.setattr(reads, "LOOKED_AT_MAX", 5)
    async with opened(tmp_path / "relay.db") as store:
        made = await many(store, 40)
        for chosen in [(), *((name,) for name in FILTERS), *combinations(FILTERS, 2)]:
            wanted = {name: FILTERS[name] for name in chosen}
            for limit in (1, 3, 99):
                assert await names(store, limit, **wanted) == expected(made, wanted), (chosen, limit)
            full = [job.id for job in await store.jobs(JobFilter(**wanted), None, 99)]
            assert full == expected(made, wanted), chosen


async def test_a_list_that_grows_while_it_is_read_shows_nothing_twice_and_leaves_nothing_out(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await many(store, 10)
        first = await store.job_page(JobFilter(), None, 4)
        await apply_all(store, queued("newer-1"), queued("newer-2"))
        rest = await store.job_page(JobFilter(), first.next_seq, 99)
        assert [job.id for job in (*first.jobs, *rest.jobs)] == [f"job-{n:03}" for n in reversed(range(10))]


async def test_since_finds_jobs_before_and_after_a_clock_that_was_set_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        for n, minute in enumerate([0, 10, 20, 30, 5, 15, 25, 35]):
            await store.apply(queued(f"job-{n}", created_at_ms=NOW_MS + minute * 60_000))
        since = NOW_MS + 12 * 60_000
        assert await names(store, since_ms=since) == ["job-7", "job-6", "job-5", "job-3", "job-2"]
        assert await names(store, until_ms=since) == ["job-4", "job-1", "job-0"]
        assert await names(store, since_ms=NOW_MS * 2) == await names(store, until_ms=0) == []


async def test_words_of_all_shots_are_found_whole_in_any_case_and_without_accents(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        shots = {"model": "x", "multishot_prompt_1": "Élan vital", "multishot_prompt_2": "the sea", "seed": 7}
        await apply_all(store, queued("shots", request=shots), queued("none", request={"model": "sea"}))
        for words, found in {
            ("SEA",): ["shots"], ("elan", "sea"): ["shots"], ("élan",): ["shots"], ("se",): [], ("7",): [],
            ("sea", "mountain"): [], ("élan-vital",): ["shots"], ("vital-élan",): [],
        }.items():  # fmt: skip
            assert await names(store, words=words) == found, words


async def test_an_erased_job_is_found_by_its_words_no_more_and_the_index_agrees_with_the_table(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    async with opened(path) as store:
        await apply_all(store, queued("kept"), queued("gone"))
        for name in ("kept", "gone"):
            await store.apply(JobGivenUp(name, "deadline", "too late", NOW_MS))
        assert await names(store, words=("coast",)) == ["gone", "kept"]
        await store.apply(JobErased("gone", NOW_MS + 1))
        assert await names(store, words=("coast",)) == ["kept"]

        def check() -> Any:
            return store._file._sql.execute("INSERT INTO jobs_text (jobs_text) VALUES ('integrity-check')").fetchall()

        assert await store._in_thread(check) == []


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1).filter(lambda word: any(c.isalnum() for c in word)), min_size=1, max_size=4))
def test_whatever_is_looked_for_is_words_and_never_a_search_language(words: list[str]) -> None:
    usable = [word.encode("utf-8", "replace").decode() for word in words]
    sql, where = chosen_jobs(JobFilter(words=tuple(usable)))
    with sqlite3.connect(":memory:") as memory:
        memory.execute("CREATE VIRTUAL TABLE jobs_text USING fts5 (prompt)")
        memory.execute("INSERT INTO jobs_text VALUES (?)", (" ".join(usable).replace("\0", " "),))
        limits = {"before": 2**62, "behind": 0, "looked_at": 9}
        assert len(memory.execute(sql, where.values | limits).fetchall()) <= 1
    memory.close()


async def test_what_ends_is_tallied_as_the_table_of_jobs_has_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await many(store, 30)
        await apply_all(store, submitted(), started(), answered(accepted(), NOW_MS + 70_000))
        await store.apply(asked(report("SUCCEEDED", "1"), NOW_MS + 700_000))
        for n in range(30):
            await store.apply(JobGivenUp(f"job-{n:03}", "deadline", "too late", NOW_MS + n * 1_000_000))

        def ask() -> list[tuple[Any, ...]]:
            sql = "SELECT at_ms, figure, model, account, bucket, counted FROM tallies"
            return [tuple(row) for row in store._file._sql.execute(sql)]

        kept = await store._in_thread(ask)
        anew: Counter[tuple[Any, ...]] = Counter()
        for job in await store.jobs(JobFilter(), None, 200):
            for tally in tallied(None, job):
                anew[tally.at_ms, tally.figure, tally.model, tally.account, tally.bucket] += tally.counted
        # Jobs that were written as ended without an end are no jobs of this relay, and are in neither.
        assert {row[:-1]: row[-1] for row in kept} == anew
        assert {(row[1], row[4]) for row in kept if row[2] == "gen4.5"} >= {("waited", 60), ("rendered", 600)}
        assert (await store.job(JOB_ID)) is not None


async def plans(store: SqliteStore, ask: Any) -> list[tuple[str, str]]:
    """`(SQL, plan)` of everything that `ask()` reads."""
    seen: list[tuple[str, dict[str, Any]]] = []
    fetch = store._fetch

    async def noted(sql: str, values: dict[str, Any]) -> Any:
        seen.append((sql, values))
        return await fetch(sql, values)

    store._fetch = noted
    try:
        await ask()
    finally:
        store._fetch = fetch
    return [
        (sql, "\n".join(row["detail"] for row in await fetch(f"EXPLAIN QUERY PLAN {sql}", values)))
        for sql, values in seen
    ]


LISTS: dict[str, Any] = {
    **{
        "jobs by " + (" and ".join(chosen) or "nothing"): lambda store, chosen=chosen: store.job_page(
            JobFilter(**{name: FILTERS[name] for name in chosen}), 1_000, 50
        )
        for chosen in [(), *((name,) for name in FILTERS), *combinations(FILTERS, 2)]
    },
    "events": lambda store: store.events_after(5, EventFilter(), 50),
    "events of a job": lambda store: store.events_after(5, EventFilter(job_id=("a",)), 50),
    "events of a reference": lambda store: store.events_after(5, EventFilter(reply_ref=("a",)), 50),
    "deliveries": lambda store: store.deliveries(Selection(), 1_000, 50),
    "deliveries of a job": lambda store: store.deliveries(Selection(job_id=("a",)), 1_000, 50),
    "deliveries of a subscription": lambda store: store.deliveries(Selection(subscription_id=("a",)), 1_000, 50),
    "quarantine": lambda store: store.quarantine(None, 50),
}


@pytest.fixture(scope="module")
async def empty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with opened(tmp_path_factory.mktemp("plans") / "relay.db") as store:
        yield store


@pytest.mark.parametrize("name", LISTS)
async def test_no_list_goes_through_a_table_or_sorts_what_it_finds(empty: SqliteStore, name: str) -> None:
    for sql, plan in await plans(empty, lambda: LISTS[name](empty)):
        assert "TEMP B-TREE" not in plan, (sql, plan)
        # A table is read by an index or in the order of its key, within the bounds of the page.
        assert not re.search(r"SCAN (jobs|events|deliveries|callbacks|attempts)\b(?! VIRTUAL)", plan), (sql, plan)


def test_the_filters_of_this_test_are_all_there_are() -> None:
    assert FILTERS.keys() == JobFilter.__dataclass_fields__.keys(), json.dumps([*JobFilter.__dataclass_fields__])
