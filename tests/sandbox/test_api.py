"""The faithful sandbox over real HTTP."""

from random import Random
from typing import Any

import httpx2
import pytest

from relay.clock import ManualClock
from relay.sandbox.api import Sandbox
from relay.sandbox.sender import IDLE_S, SEND_TIMEOUT_S
from relay.sandbox.shapes import Account
from relay.sandbox.vendor import Vendor
from tests.sandbox.serving import PAGE_EXAMPLE, bench, receiver

pytestmark = pytest.mark.anyio

TWO = [Account("one@example.com", 1), Account("two@example.com", 1)]


async def test_a_task_is_created_reported_and_found_again() -> None:
    async with bench() as sandbox, receiver() as callbacks:
        answer = await sandbox.create(replyUrl=callbacks.origin + "/hook?x=1", replyRef="mine")
        await callbacks.until_final()

        task = answer.json()["task"]
        assert (task["status"], task["progressRatio"], task["code"]) == ("PENDING", "0", 200)
        assert task["replyRef"] == "mine"
        assert callbacks.seen[0] == ("RUNNING", "0")
        assert callbacks.seen[-1] == ("SUCCEEDED", "1")
        assert [ratio for _, ratio in callbacks.seen] == sorted(ratio for _, ratio in callbacks.seen)
        assert len(callbacks.seen) == 11
        found = (await sandbox.task(task["taskId"])).json()
        assert found["options"]["text_prompt"] == PAGE_EXAMPLE["text_prompt"]
        assert _unlinked(found) == _unlinked(callbacks.bodies[-1])


def _unlinked(task: dict[str, Any]) -> dict[str, Any]:
    artifacts = [{**artifact, "url": "", "previewUrls": []} for artifact in task["artifacts"]]
    return {**task, "artifacts": artifacts}


async def test_a_form_is_taken_as_json_is() -> None:
    async with bench() as sandbox:
        form = {name: (None, str(value)) for name, value in {**PAGE_EXAMPLE, "exploreMode": "true"}.items()}

        answer = await sandbox.client.post("videos/create", files=form)

        options = answer.json()["task"]["options"]
        assert (options["seconds"], options["exploreMode"]) == (5, True)


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"model": "gen9"}, 400, "Supported values"),
        ({"text_prompt": 7}, 400, "text_prompt"),
        ({"duration": 60}, 400, "duration"),
        ({"replyUrl": "https://example.com/" + "x" * 1024}, 400, "replyUrl"),
        ({"maxJobs": 11}, 400, "maxJobs"),
        ({"email": "nobody@example.com"}, 400, "not configured"),
        ({"imageAssetId1": "an image"}, 400, "not a valid assetId"),
        ({"imageAssetId1": "user:1-runwayml:a@b-asset:00000000-0000-4000-8000-000000000001"}, 404, "Not found"),
        ({"text_prompt": "please moderate-me"}, 422, "moderation"),
    ],
)
async def test_a_wrong_create_is_refused(fields: dict[str, Any], status: int, word: str) -> None:
    async with bench() as sandbox:
        answer = await sandbox.create(**fields)

        assert (answer.status_code, answer.json()["code"]) == (status, status)
        assert word in answer.json()["error"]
        assert (await sandbox.state())["submits"] == 0


async def test_names_of_older_endpoints_are_ignored_in_silence() -> None:
    async with bench() as sandbox:
        answer = await sandbox.create(seconds=10)

        assert answer.json()["task"]["options"]["seconds"] == 5


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    async with bench() as sandbox:
        answer = await sandbox.client.post("videos/create", content=body)

        assert (answer.status_code, answer.json()["code"]) == (400, 400)


async def test_a_body_that_is_too_large_is_refused() -> None:
    async with bench() as sandbox:
        answer = await sandbox.client.post("videos/create", content=b" " * 2_000_000)

        assert (answer.status_code, answer.json()["code"]) == (413, 413)


async def test_a_token_is_needed_and_a_set_one_is_checked() -> None:
    async with bench() as sandbox:
        missing = await sandbox.client.get("scheduler/", headers={"authorization": ""})
        anything = await sandbox.client.get("scheduler/")
    async with bench(token="secret") as sandbox:
        wrong = await sandbox.client.get("scheduler/")
        right = await sandbox.client.get("scheduler/", headers={"authorization": "Bearer secret"})

    assert [missing.status_code, anything.status_code, wrong.status_code, right.status_code] == [401, 200, 401, 200]
    assert missing.json() == {"error": "Unauthorized", "code": 401}


async def test_a_full_account_answers_429_and_names_what_runs() -> None:
    async with bench(times_s=(1000, 1000)) as sandbox:
        first = await sandbox.created(replyRef="one")
        await sandbox.created(replyRef="two")

        refused = await sandbox.create()

        assert refused.status_code == 429
        running = refused.json()["runningTasks"]["sandbox@example.com"]
        assert [task["replyRef"] for task in running] == ["one", "two"]
        assert running[0]["taskId"] == first


async def test_scheduler_and_task_list_show_references() -> None:
    async with bench(times_s=(1000, 1000)) as sandbox:
        first = await sandbox.created(replyRef="one", replyUrl="http://127.0.0.1:9/")
        second = await sandbox.created()

        scheduler = (await sandbox.client.get("scheduler/")).json()
        tasks = (await sandbox.client.get("tasks/?offset=0&limit=10&statuses=PENDING,RUNNING")).json()
        none = (await sandbox.client.get("tasks/?offset=0&limit=10&statuses=FAILED")).json()
        page = (await sandbox.client.get("tasks/?offset=1&limit=1")).json()

        assert scheduler == [
            {"taskId": first, "replyUrl": "http://127.0.0.1:9/", "replyRef": "one"},
            {"taskId": second},
        ]
        assert [task["taskId"] for task in tasks] == [second, first]
        assert none == []
        assert [task["replyRef"] for task in page] == ["one"]


@pytest.mark.parametrize(
    "query", ["", "offset=0", "limit=5", "offset=1001&limit=5", "offset=0&limit=0", "offset=a&limit=1"]
)
async def test_a_task_list_needs_offset_and_limit(query: str) -> None:
    async with bench() as sandbox:
        answer = await sandbox.client.get("tasks/?" + query)

        assert answer.status_code == 400


async def test_with_several_accounts_lists_and_features_need_an_email() -> None:
    async with bench(accounts=TWO) as sandbox:
        await sandbox.created(email="two@example.com")
        await sandbox.created(email="one@example.com")
        lists = "tasks/?offset=0&limit=9"

        answers = [
            await sandbox.client.get(path)
            for path in (lists, lists + "&email=two@example.com", lists + "&email=x@example.com", "features/")
        ]

        assert [answer.status_code for answer in answers] == [400, 200, 404, 400]
        assert len(answers[1].json()) == 1


async def test_accounts_tell_their_secrets() -> None:
    async with bench(accounts=TWO) as sandbox:
        accounts = (await sandbox.client.get("accounts")).json()

        assert sorted(accounts) == ["one@example.com", "two@example.com"]
        assert sorted(accounts["one@example.com"]) == ["email", "jwt", "maxJobs", "password"]
        assert accounts["one@example.com"]["maxJobs"] == 1


async def test_features_count_credits_but_not_those_of_explore_mode() -> None:
    async with bench() as sandbox:
        await sandbox.created(duration=10)
        await sandbox.created(duration=10, exploreMode=True)

        features = (await sandbox.client.get("features/?email=sandbox@example.com")).json()

        assert features["used"]["numPlanCredits"] == 50
        assert features["permitted"]["numPlanCredits"] > 50


async def test_paths_are_served_with_and_without_the_last_slash() -> None:
    async with bench() as sandbox:
        paths = ("accounts", "accounts/", "scheduler", "scheduler/", "features", "features/", "assets", "assets/")

        assert {(await sandbox.client.get(path)).status_code for path in paths} == {200}


async def test_what_does_not_exist_is_a_404_and_a_wrong_method_a_405() -> None:
    async with bench() as sandbox:
        answers = [
            await sandbox.client.get("videos"),
            await sandbox.task("user:1-runwayml:a@b-task:00000000-0000-4000-8000-000000000001"),
            await sandbox.task("00000000-0000-4000-8000-000000000001"),
            await sandbox.client.get("assets/nothing"),
            await sandbox.client.delete("assets/nothing"),
            await sandbox.client.get("videos/create"),
        ]

        assert [answer.status_code for answer in answers] == [404, 404, 404, 404, 404, 405]
        assert answers[0].json() == {"error": "Not found.", "code": 404}


async def test_a_task_id_counts_only_whole() -> None:
    async with bench() as sandbox:
        task_id = await sandbox.created()
        user, _, rest = task_id.partition("-")

        whole = await sandbox.task(task_id)
        other_user = await sandbox.task(f"{user}1-{rest}")

        assert (whole.status_code, other_user.status_code) == (200, 404)


async def test_the_state_tells_what_was_submitted_called_and_asked() -> None:
    async with bench() as sandbox, receiver() as callbacks:
        callbacks.status = 503
        task_id = await sandbox.created(replyUrl=callbacks.origin, replyRef="mine")
        await callbacks.until_final()
        await sandbox.task(task_id)
        async with httpx2.AsyncClient(trust_env=False) as stranger:
            state = (await stranger.get(sandbox.origin + "/sandbox/state")).json()
            while len(state["callbacks"]) < 11:
                state = (await stranger.get(sandbox.origin + "/sandbox/state")).json()

        assert state["submits"] == 1
        task = state["tasks"][0]
        assert (task["taskId"], task["replyRef"], task["status"]) == (task_id, "mine", "SUCCEEDED")
        last = state["callbacks"][-1]
        assert (last["url"], last["status"], last["taskStatus"]) == (callbacks.origin, 503, "SUCCEEDED")
        assert state["requests"] == {"/videos/create": 1, "/tasks/{taskId}": 1}


async def test_a_callback_that_cannot_be_sent_is_recorded_and_never_tried_again() -> None:
    async with bench() as sandbox:
        await sandbox.created(replyUrl="http://127.0.0.1:1/hook")
        state = await sandbox.state()
        while len(state["callbacks"]) < 11:
            state = await sandbox.state()

        assert {callback["status"] for callback in state["callbacks"]} == {None}
        assert all("Error" in callback["error"] for callback in state["callbacks"])
        assert len((await sandbox.state())["callbacks"]) == 11


async def test_callbacks_wake_when_the_clock_says_so_and_not_before() -> None:
    clock = ManualClock()
    async with bench(clock, times_s=(30, 100)) as sandbox, receiver() as callbacks:
        await sandbox.created(replyUrl=callbacks.origin)

        clock.advance(30)
        await callbacks.until(lambda: len(callbacks.seen) == 1)
        clock.advance(100)
        await callbacks.until_final()

        assert callbacks.seen[0] == ("RUNNING", "0")
        assert callbacks.seen[-1] == ("SUCCEEDED", "1")


class NotingClock(ManualClock):
    """Remembers for how long it was asked to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        await super().sleep(seconds)


async def test_the_sender_sleeps_until_the_next_callback_is_due_and_does_not_tick() -> None:
    clock = NotingClock()
    async with bench(clock, times_s=(30, 100)) as sandbox, receiver() as callbacks:
        await sandbox.created(replyUrl=callbacks.origin)
        for _ in range(5):  # a sender that does not rest would have come round many times
            await sandbox.state()

        slept_s = [seconds for seconds in clock.asked_s if seconds != SEND_TIMEOUT_S]

        assert slept_s == [IDLE_S, 30.0]


async def test_the_app_answers_without_a_server_too_but_calls_nobody_back() -> None:
    app = Sandbox(Vendor(Random(1), faults={"get_fails": "cut"}), ManualClock())  # noqa: S311 - chance, not a secret
    transport = httpx2.ASGITransport(app)
    headers = {"authorization": "Bearer x"}
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://sandbox/v1/runwayml/", headers=headers
    ) as client:
        created = await client.post("videos/create", json={**PAGE_EXAMPLE, "replyUrl": "http://127.0.0.1:1/"})

        with pytest.raises(ConnectionAbortedError):
            await client.get("tasks/" + created.json()["task"]["taskId"])

    assert created.status_code == 200
