"""The pure part of the sandbox, moved through virtual time."""

import json
from random import Random
from typing import Any

import pytest

from relay.sandbox.answer import Answer
from relay.sandbox.links import Links
from relay.sandbox.shapes import Account
from relay.sandbox.vendor import Vendor
from tests.sandbox.serving import PAGE_EXAMPLE, answered

NOW_MS = 1_767_225_600_000
ORIGIN = "http://sandbox"


def chance(seed: int = 1) -> Random:
    return Random(seed)  # noqa: S311 - chance, not a secret


def vendor(**options: Any) -> Vendor:
    return Vendor(chance(), **{"times_s": (30, 100), **options})


def create(sandbox: Vendor, at_s: float = 0, **fields: Any) -> Answer:
    return answered(lambda: sandbox.create(NOW_MS + round(at_s * 1000), {**PAGE_EXAMPLE, **fields}, ORIGIN))


def body(answer: Answer) -> Any:
    return json.loads(answer.body)


def created(sandbox: Vendor, at_s: float = 0, **fields: Any) -> str:
    answer = create(sandbox, at_s, **fields)
    assert answer.status == 200, answer
    return str(body(answer)["task"]["taskId"])


def asked(sandbox: Vendor, task_id: str, at_s: float) -> Any:
    return body(answered(lambda: sandbox.asking.task(NOW_MS + round(at_s * 1000), task_id)))


def reported(sandbox: Vendor, until_s: float) -> list[tuple[float, str, str]]:
    """(seconds, status, progressRatio) of all callbacks up to a time, each taken the moment that it is due."""
    seen: list[tuple[float, str, str]] = []
    while (due_ms := sandbox.outbox.next_due_ms()) is not None and due_ms <= NOW_MS + until_s * 1000:
        for callback in sandbox.outbox.due(due_ms):
            task = json.loads(callback.body)
            seen.append(((due_ms - NOW_MS) / 1000, task["status"], task["progressRatio"]))
    return seen


def test_a_task_goes_from_pending_by_tenths_to_succeeded() -> None:
    sandbox = vendor()
    task_id = created(sandbox, replyUrl="http://receiver/")

    states = [
        (asked(sandbox, task_id, at_s)["status"], asked(sandbox, task_id, at_s)["progressRatio"])
        for at_s in (0, 29.9, 30, 39.9, 40, 129.9, 130, 10_000)
    ]

    assert states == [
        ("PENDING", "0"),
        ("PENDING", "0"),
        ("RUNNING", "0"),
        ("RUNNING", "0"),
        ("RUNNING", "0.1"),
        ("RUNNING", "0.9"),
        ("SUCCEEDED", "1"),
        ("SUCCEEDED", "1"),
    ]


def test_a_callback_is_due_at_the_start_at_each_tenth_and_at_the_end() -> None:
    sandbox = vendor()
    created(sandbox, replyUrl="http://receiver/")

    seen = reported(sandbox, 1000)

    assert [at_s for at_s, _, _ in seen] == [30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130]
    assert seen[0] == (30, "RUNNING", "0")
    assert seen[-1] == (130, "SUCCEEDED", "1")
    assert sandbox.outbox.next_due_ms() is None


def test_a_task_without_reply_url_owes_no_callback() -> None:
    sandbox = vendor()
    created(sandbox)

    assert sandbox.outbox.next_due_ms() is None


def test_the_account_wide_reply_url_is_used_and_echoed() -> None:
    sandbox = vendor(reply_url="http://account-wide/")
    task_id = created(sandbox)

    assert asked(sandbox, task_id, 0)["replyUrl"] == "http://account-wide/"
    assert {callback.url for callback in sandbox.outbox.due(NOW_MS + 30_000)} == {"http://account-wide/"}


def test_the_fault_default_reply_url_does_the_same() -> None:
    sandbox = vendor(faults={"default_reply_url": "http://from-the-fault/"})

    task_id = created(sandbox)

    assert asked(sandbox, task_id, 0)["replyUrl"] == "http://from-the-fault/"


def test_speed_divides_every_time() -> None:
    sandbox = vendor(speed=100)
    created(sandbox, replyUrl="http://receiver/")

    seen = reported(sandbox, 1000)

    assert (seen[0][0], seen[-1][0]) == (0.3, 1.3)


@pytest.mark.parametrize(
    ("model", "least_s", "most_s"), [("gen4-turbo", 60, 150), ("veo-3.1", 60, 150), ("gen4.5", 400, 700)]
)
def test_times_come_from_the_catalogue(model: str, least_s: float, most_s: float) -> None:
    sandbox = Vendor(chance(), faults={"assets_unchecked": True})
    asset = "user:1-runwayml:sandbox@example.com-asset:00000000-0000-4000-8000-000000000001"
    fields = {"duration": 8 if model == "veo-3.1" else 5}
    if model == "gen4-turbo":
        fields |= {"imageAssetId1": asset}  # type: ignore[dict-item]
    created(sandbox, model=model, replyUrl="http://receiver/", **fields)

    ends_s = reported(sandbox, 10_000)[-1][0]

    assert least_s < ends_s < most_s


def test_explore_mode_waits_longer_and_one_after_the_other() -> None:
    sandbox = Vendor(chance())
    created(sandbox, exploreMode=True)
    second = created(sandbox, exploreMode=True, replyUrl="http://receiver/")
    first_ends_ms = next(iter(sandbox.register.oldest_first())).course.ends_ms

    starts_s = reported(sandbox, 10_000)[0][0]

    assert first_ends_ms is not None
    assert starts_s * 1000 + NOW_MS == first_ends_ms
    assert next(iter(sandbox.register.oldest_first())).course.starts_ms - NOW_MS > 5 * 60_000
    assert asked(sandbox, second, 0)["estimatedTimeToStartSeconds"] == starts_s


def test_slots_are_free_again_when_a_task_ends() -> None:
    sandbox = vendor()
    created(sandbox)
    created(sandbox)

    assert create(sandbox, 129.9).status == 429
    assert create(sandbox, 130).status == 200


def test_without_email_an_account_with_room_is_chosen() -> None:
    sandbox = vendor(accounts=[Account("a@example.com", 1), Account("b@example.com", 2)])

    owners = sorted(created(sandbox).split(":")[2].removesuffix("-task") for _ in range(3))

    assert owners == ["a@example.com", "b@example.com", "b@example.com"]
    refused = body(create(sandbox))
    assert sorted(refused["runningTasks"]) == ["a@example.com", "b@example.com"]
    assert refused["code"] == 429


def test_max_jobs_bounds_the_queue_and_the_account_bounds_the_provider() -> None:
    sandbox = vendor()
    created(sandbox, maxJobs=1)

    full = create(sandbox, maxJobs=1)
    created(sandbox, maxJobs=5)
    beyond = create(sandbox, maxJobs=5)

    assert body(full)["error"] == "Account sandbox@example.com is busy executing 1 tasks"
    assert beyond.status == 429
    assert set(body(beyond)) == {"error"}


def test_capacity_changes_between_one_and_three() -> None:
    sandbox = vendor(accounts=[Account("a@example.com", 10)], times_s=(0, 1), faults={"capacity_changes": 60})

    taken = []
    for minute in range(60):
        answers = [create(sandbox, minute * 60).status for _ in range(4)]
        taken.append(answers.count(200))

    assert set(taken) == {1, 2, 3}


def test_a_throttled_task_keeps_its_slot_and_runs_later() -> None:
    sandbox = vendor(faults={"throttled": {"value": "10m", "times": 1}})
    task_id = created(sandbox, replyUrl="http://receiver/")

    assert asked(sandbox, task_id, 30)["status"] == "THROTTLED"
    assert asked(sandbox, task_id, 629)["status"] == "THROTTLED"
    assert asked(sandbox, task_id, 630)["status"] == "RUNNING"
    assert reported(sandbox, 10_000)[:2] == [(30, "THROTTLED", "0"), (630, "RUNNING", "0")]


def test_a_task_that_never_ends_keeps_its_slot() -> None:
    sandbox = vendor(accounts=[Account("a@example.com", 1)], faults={"never_ends": {"value": True, "times": 1}})
    task_id = created(sandbox)

    late = asked(sandbox, task_id, 1_000_000)

    assert (late["status"], late["progressRatio"]) == ("RUNNING", "0.9")
    assert create(sandbox, 1_000_000).status == 429


def test_an_odd_status_takes_the_place_of_running() -> None:
    sandbox = vendor(faults={"odd_status": "UPSCALING"})
    task_id = created(sandbox)

    assert asked(sandbox, task_id, 60)["status"] == "UPSCALING"
    assert asked(sandbox, task_id, 130)["status"] == "SUCCEEDED"


def test_a_task_that_appears_later_holds_its_slot_and_is_seen_nowhere_before() -> None:
    sandbox = vendor(
        accounts=[Account("a@example.com", 1)],
        faults={"create_lost": {"value": "cut", "times": 1}, "appears_after": {"value": 20, "times": 1}},
    )
    assert create(sandbox, replyRef="mine").cut

    def listed(at_s: float) -> list[Any]:
        now_ms = NOW_MS + round(at_s * 1000)
        page = body(sandbox.asking.tasks(now_ms, {"offset": "0", "limit": "10"}))
        return [len(body(sandbox.asking.scheduler(now_ms))), len(page)]

    assert listed(19.9) == [0, 0]
    early = create(sandbox, 19.9)
    assert early.status == 429
    assert body(early)["runningTasks"] == {"a@example.com": []}
    assert listed(20) == [1, 1]
    assert body(create(sandbox, 20))["runningTasks"]["a@example.com"][0]["replyRef"] == "mine"
    assert sandbox.submits == 1


def test_lists_lag_behind() -> None:
    sandbox = vendor(faults={"lists_lag": 20})
    created(sandbox)

    def running(at_s: float) -> int:
        return len(body(sandbox.asking.scheduler(NOW_MS + round(at_s * 1000))))

    assert [running(at_s) for at_s in (19, 20, 149, 150)] == [0, 1, 1, 0]
    page = body(sandbox.asking.tasks(NOW_MS + 140_000, {"offset": "0", "limit": "10"}))
    assert page[0]["status"] == "RUNNING"


def test_asking_says_running_for_a_while_after_the_final_callback() -> None:
    sandbox = vendor(faults={"get_running_after_final": 60})
    task_id = created(sandbox, replyUrl="http://receiver/")

    assert reported(sandbox, 130)[-1] == (130, "SUCCEEDED", "1")
    assert asked(sandbox, task_id, 189)["status"] == "RUNNING"
    assert asked(sandbox, task_id, 190)["status"] == "SUCCEEDED"


def test_asking_says_404_for_a_while_after_the_create() -> None:
    sandbox = vendor(faults={"not_found_after_create": 60})
    task_id = created(sandbox)

    assert asked(sandbox, task_id, 59) == {"error": "Not found.", "code": 404}
    assert asked(sandbox, task_id, 60)["status"] == "RUNNING"


def test_artifacts_and_their_urls_come_late() -> None:
    sandbox = vendor(faults={"no_artifacts_at_first": 10, "no_url_at_first": 30})
    task_id = created(sandbox, replyUrl="http://receiver/")
    final = [json.loads(callback.body) for callback in sandbox.outbox.due(NOW_MS + 130_000)][-1]

    assert (final["status"], final["artifacts"]) == ("SUCCEEDED", [])
    assert asked(sandbox, task_id, 139)["artifacts"] == []
    assert "url" not in asked(sandbox, task_id, 140)["artifacts"][0]
    assert asked(sandbox, task_id, 160)["artifacts"][0]["url"].startswith(ORIGIN)


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"callbacks": "none"}, []),
        ({"callbacks": "final"}, [(130, "1")]),
        ({"callbacks_dropped": 1}, []),
        ({"callbacks_dropped": {"value": 1, "times": 9}}, [(120, "0.9"), (130, "1")]),
        ({"callbacks": "final", "callbacks_doubled": 1}, [(130, "1"), (130, "1")]),
        ({"callbacks": "final", "callbacks_late": 45}, [(175, "1")]),
        ({"callbacks": "final", "final_late": "5m"}, [(430, "1")]),
        ({"callbacks": "final", "final_late": 5, "callbacks_late": 5}, [(140, "1")]),
    ],
)
def test_callbacks_go_astray(faults: dict[str, Any], expected: list[tuple[float, str]]) -> None:
    sandbox = vendor(faults=faults)
    created(sandbox, replyUrl="http://receiver/")

    assert [(at_s, ratio) for at_s, _, ratio in reported(sandbox, 10_000)] == expected


def test_reordered_callbacks_overtake_each_other_up_to_the_final_one() -> None:
    sandbox = vendor(faults={"callbacks_reordered": True})
    created(sandbox, replyUrl="http://receiver/")

    order = [ratio for _, _, ratio in reported(sandbox, 10_000)]

    assert order == ["0", "0.2", "0.1", "0.4", "0.3", "0.6", "0.5", "0.8", "0.7", "1", "0.9"]


def test_a_dropped_callback_is_recorded() -> None:
    sandbox = vendor(faults={"callbacks_dropped": 1})
    created(sandbox, replyUrl="http://receiver/", replyRef="mine")

    reported(sandbox, 10_000)

    noted = sandbox.state(NOW_MS)["callbacks"]
    assert len(noted) == 11
    assert (noted[-1]["error"], noted[-1]["status"], noted[-1]["replyRef"]) == ("dropped", None, "mine")


def test_a_stray_callback_names_another_task_and_another_reference() -> None:
    sandbox = vendor(faults={"callbacks": "final", "callbacks_stray": 1})
    task_id = created(sandbox, replyUrl="http://receiver/", replyRef="mine")

    own, stray = (json.loads(callback.body) for callback in sandbox.outbox.due(NOW_MS + 130_000))

    assert (own["taskId"], own["replyRef"]) == (task_id, "mine")
    assert stray["taskId"] != task_id
    assert stray["replyRef"].startswith("stray-")
    assert "mine" not in json.dumps(stray)


def test_the_same_seed_gives_the_same_course() -> None:
    def lived(seed: int) -> list[Any]:
        sandbox = Vendor(chance(seed), faults={"callbacks_dropped": 0.5})
        for _ in range(2):
            created(sandbox, replyUrl="http://receiver/")
        return [*reported(sandbox, 10_000), sandbox.state(NOW_MS)]

    assert lived(7) == lived(7)
    assert lived(7) != lived(8)


def test_a_link_opens_one_name_until_it_expires() -> None:
    links = Links(b"key")
    jwt = links.make(ORIGIN, "a.mp4", expires_ms=NOW_MS).partition("_jwt=")[2]

    assert links.good("a.mp4", jwt, NOW_MS - 1)
    assert not links.good("a.mp4", jwt, NOW_MS)
    assert not links.good("b.mp4", jwt, NOW_MS - 1)
    assert not Links(b"other").good("a.mp4", jwt, NOW_MS - 1)
    for broken in ("", ".", "a.b.c", jwt[:-1], "é" + jwt, jwt.partition(".")[0]):
        assert not links.good("a.mp4", broken, NOW_MS - 1)


@pytest.mark.parametrize("text", ["a@example.com=2", "a@example.com"])
def test_an_account_is_email_and_slots(text: str) -> None:
    assert Account.parse(text) == Account("a@example.com", 2)


@pytest.mark.parametrize(
    "text", ["", "=2", "a@example.com=0", "a@example.com=11", "a b=1", "a/b@example.com=1", "a=b=1"]
)
def test_what_is_no_account_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="email=slots"):
        Account.parse(text)
