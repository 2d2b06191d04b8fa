"""The faithful sandbox over real HTTP."""

import hashlib
from collections.abc import AsyncGenerator
from random import Random
from typing import Any

import httpx2
import pytest

from relay.clock import ManualClock
from relay.sandbox.api import build
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


async def test_a_film_is_served_whole_in_ranges_and_as_a_head() -> None:
    async with bench() as sandbox:
        artifact = (await sandbox.finished(await sandbox.created()))["artifacts"][0]
        get = sandbox.client.get
        url = artifact["url"]

        whole = await get(url)
        parts = [await get(url, headers={"range": each}) for each in ("bytes=0-3", "bytes=4-", "bytes=-4")]
        beyond = await get(url, headers={"range": "bytes=999999-"})
        head = await sandbox.client.head(url)

        assert whole.headers["content-type"] == "video/mp4"
        assert len(whole.content) == int(artifact["fileSize"]) == int(head.headers["content-length"])
        assert [part.status_code for part in parts] == [206, 206, 206]
        assert [part.content for part in parts] == [whole.content[:4], whole.content[4:], whole.content[-4:]]
        assert parts[0].headers["content-range"] == f"bytes 0-3/{len(whole.content)}"
        assert (beyond.status_code, head.content) == (416, b"")


async def test_artifact_links_need_no_token_but_their_signature() -> None:
    async with bench() as sandbox, httpx2.AsyncClient(trust_env=False) as stranger:
        artifact = (await sandbox.finished(await sandbox.created()))["artifacts"][0]

        good = await stranger.get(artifact["url"])
        picture = await stranger.get(artifact["previewUrls"][0])
        bare = await stranger.get(artifact["url"].partition("?")[0])
        forged = await stranger.get(artifact["url"] + "x")

        assert (good.status_code, picture.content[:4]) == (200, b"\x89PNG")
        assert (bare.status_code, forged.status_code) == (403, 403)


async def test_two_tasks_have_different_films() -> None:
    async with bench() as sandbox:
        films = []
        for _ in range(2):
            artifact = (await sandbox.finished(await sandbox.created()))["artifacts"][0]
            films.append((await sandbox.client.get(artifact["url"])).content)

        assert films[0] != films[1]


async def test_links_expire_after_a_day_and_every_asking_gives_fresh_ones() -> None:
    clock = ManualClock()
    async with bench(clock) as sandbox:
        task_id = await sandbox.created()
        clock.advance(1)
        first = (await sandbox.task(task_id)).json()["artifacts"][0]["url"]
        second = (await sandbox.task(task_id)).json()["artifacts"][0]["url"]

        clock.advance(24 * 3600 - 1)
        last_moment = await sandbox.client.get(first)
        clock.advance(1)
        expired = await sandbox.client.get(first)
        fresh = (await sandbox.task(task_id)).json()["artifacts"][0]["url"]

        assert first != second
        assert (last_moment.status_code, expired.status_code) == (200, 403)
        assert (await sandbox.client.get(fresh)).status_code == 200


async def test_an_asset_is_uploaded_listed_used_and_deleted() -> None:
    async with bench(accounts=TWO) as sandbox:
        picture = b"\x89PNG" + bytes(1000)
        post = sandbox.client.post
        answer = await post(
            "assets/?name=cat.png&email=two@example.com", content=picture, headers={"content-type": "image/png"}
        )
        asset = answer.json()
        asset_id = asset["assetId"]
        await post("assets/?email=one@example.com", content=b"film", headers={"content-type": "video/mp4"})

        shown = (await sandbox.client.get("assets/" + asset_id)).json()
        listed = (await sandbox.client.get("assets/?mediaType=image&offset=0&limit=50")).json()
        everything = (await sandbox.client.get("assets/")).json()
        content = await sandbox.client.get(shown["url"])
        made = await sandbox.created(imageAssetId1=asset_id)
        elsewhere = await sandbox.create(imageAssetId1=asset_id, email="one@example.com")
        deleted = await sandbox.client.delete("assets/" + asset_id)
        gone = await sandbox.client.get("assets/" + asset_id)

        assert (asset["filename"], asset["fileSize"]) == ("cat.png", "1004")
        assert [each["assetId"] for each in listed] == [asset_id]
        assert len(everything) == 2
        assert (content.content, content.headers["content-type"]) == (picture, "image/png")
        assert made.split(":")[2] == "two@example.com-task"
        assert elsewhere.status_code == 400
        assert (deleted.status_code, gone.status_code) == (200, 404)
        assert (await sandbox.client.get(shown["url"])).status_code == 404


@pytest.mark.parametrize("unchecked", [False, True])
async def test_assets_of_two_accounts_cannot_work_together(unchecked: bool) -> None:
    async with bench(accounts=TWO, faults={"unchecked": unchecked}) as sandbox:
        ids = []
        for account in TWO:
            answer = await sandbox.client.post(
                f"assets/?email={account.email}", content=b"x", headers={"content-type": "image/png"}
            )
            ids.append(answer.json()["assetId"])

        together = await sandbox.create(model="veo-3.1", duration=8, imageAssetId1=ids[0], imageAssetId2=ids[1])
        elsewhere = await sandbox.create(imageAssetId1=ids[0], email=TWO[1].email)

        assert (together.status_code, elsewhere.status_code) == (400, 400)
        assert "account" in together.json()["error"]


async def test_what_a_task_made_can_be_used_as_an_asset() -> None:
    async with bench(faults={"unchecked": True}) as sandbox:
        artifact = (await sandbox.finished(await sandbox.created()))["artifacts"][0]

        answer = await sandbox.create(model="wan-2.2-animate", videoAssetId=artifact["assetId"])

        assert answer.status_code == 200


async def test_an_upload_streams_through_and_is_hashed() -> None:
    size, piece = 20_000_000, bytes(range(250)) * 4000

    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(size // len(piece)):
            yield piece

    async with bench() as sandbox:
        answer = await sandbox.client.post("assets/", content=pieces(), headers={"content-type": "video/mp4"})

        asset = answer.json()
        assert asset["fileSize"] == str(size)
        assert asset["sha256"] == hashlib.sha256(piece * (size // len(piece))).hexdigest()


@pytest.mark.parametrize(
    ("query", "content_type", "content", "status"),
    [
        ("", "text/plain", b"x", 400),
        ("", "image/png", b"", 400),
        ("?email=x@example.com", "image/png", b"x", 404),
    ],
)
async def test_a_wrong_upload_is_refused(query: str, content_type: str, content: bytes, status: int) -> None:
    async with bench() as sandbox:
        answer = await sandbox.client.post("assets/" + query, content=content, headers={"content-type": content_type})

        assert answer.status_code == status


@pytest.mark.parametrize("query", ["limit=51", "limit=0", "offset=-1"])
async def test_a_page_of_assets_is_bounded(query: str) -> None:
    async with bench() as sandbox:
        assert (await sandbox.client.get("assets/?" + query)).status_code == 400


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
        await sandbox.state()

        slept_s = [seconds for seconds in clock.asked_s if seconds != SEND_TIMEOUT_S]

        assert slept_s == [IDLE_S, 30.0]


async def test_the_base_url_of_artifacts_is_the_hosts_or_the_one_given() -> None:
    async with bench() as sandbox:
        task_id = await sandbox.created()
        here = (await sandbox.finished(task_id))["artifacts"][0]["url"]
    async with bench(base_url="https://elsewhere.example/") as sandbox:
        task_id = await sandbox.created()
        elsewhere = (await sandbox.finished(task_id))["artifacts"][0]["url"]

    assert here.startswith("http://127.0.0.1:")
    assert elsewhere.startswith("https://elsewhere.example/artifacts/")


async def test_the_app_answers_without_a_server_too_but_calls_nobody_back() -> None:
    app = build(Vendor(Random(1), faults={"get_fails": "cut"}), ManualClock())  # noqa: S311 - chance, not a secret
    transport = httpx2.ASGITransport(app)
    headers = {"authorization": "Bearer x"}
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://sandbox/v1/runwayml/", headers=headers
    ) as client:
        created = await client.post("videos/create", json={**PAGE_EXAMPLE, "replyUrl": "http://127.0.0.1:1/"})

        with pytest.raises(ConnectionAbortedError):
            await client.get("tasks/" + created.json()["task"]["taskId"])

    assert created.status_code == 200
