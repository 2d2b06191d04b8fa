"""Every fault after the create over real HTTP, as the relay would meet it."""

import asyncio
import time
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from tests.sandbox.serving import bench, receiver

pytestmark = pytest.mark.anyio

LIST = "tasks/?offset=0&limit=10"
SHORT_S = 0.3


async def test_faults_are_set_shown_and_replaced_over_http() -> None:
    async with bench() as sandbox:
        url = sandbox.origin + "/sandbox/faults"

        first = await sandbox.client.put(url, json={"busy": {"value": True, "times": 2}, "html_errors": False})
        second = await sandbox.client.put(url, json={"lists_lag": "10s"})
        shown = await sandbox.client.get(url)

        assert first.json() == {"busy": {"value": True, "times": 2}}
        assert second.json() == shown.json() == {"lists_lag": 10.0}


@pytest.mark.parametrize("content", [b'{"bsuy": true}', b"[]", b"{", b'{"busy": 7}'])
async def test_wrong_faults_are_a_400_that_names_the_known_ones(content: bytes) -> None:
    async with bench(faults={"callbacks": "none"}) as sandbox:
        answer = await sandbox.client.put(sandbox.origin + "/sandbox/faults", content=content)

        assert answer.status_code == 400
        assert answer.json()["error"]
        if b"bsuy" in content:
            assert "callbacks_reordered" in answer.json()["error"]
        assert sandbox.vendor.faults.as_json() == {"callbacks": "none"}


# How a task goes, and looks.


@pytest.mark.parametrize(
    ("value", "reason", "category"),
    [
        ("safety", "SAFETY.OUTPUT.VIDEO", True),
        ("bad-output", "INTERNAL.BAD_OUTPUT.CODE01", False),
        ("empty", "", False),
        ("other", "INPUT_PREPROCESSING.INTERNAL", False),
    ],
)
async def test_a_task_fails_for_a_reason(value: str, reason: str, category: bool) -> None:
    async with bench(faults={"fails": value}) as sandbox:
        task = await sandbox.finished(await sandbox.created())

        assert (task["status"], task["error"]["reason"], task["artifacts"]) == ("FAILED", reason, [])
        assert bool(task["error"]["moderation_category"]) == task["error"]["tally_asimov"] == category
        assert 0 < float(task["progressRatio"]) < 1


async def test_a_prompt_is_moderated_while_its_task_runs() -> None:
    async with bench() as sandbox, receiver() as callbacks:
        await sandbox.created(text_prompt="please moderate-late", replyUrl=callbacks.origin)
        await callbacks.until_final()

        assert callbacks.bodies[-1]["error"]["reason"] == "SAFETY.INPUT.TEXT"


@pytest.mark.parametrize("word", ["CANCELLED", "CANCELED"])
async def test_a_task_is_cancelled(word: str) -> None:
    async with bench(faults={"cancelled": word}) as sandbox:
        task_id = await sandbox.created()

        task = await sandbox.until(task_id, lambda body: body["status"] == word)

        assert (task["error"], task["artifacts"]) == (None, [])


@pytest.mark.parametrize(
    ("form", "first", "last"), [("string", "0", "1"), ("number", 0.0, 1.0), ("null", None, None), ("empty", "", "")]
)
async def test_progress_has_four_forms(form: str, first: Any, last: Any) -> None:
    async with bench(faults={"progress": form}) as sandbox:
        answer = (await sandbox.create()).json()["task"]
        done = await sandbox.finished(answer["taskId"])

        assert (answer["progressRatio"], done["progressRatio"]) == (first, last)


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        ("nested", ["dimensions", "duration", "frameRate", "size"]),
        ("flat", ["duration", "frameRate", "hasAlphaChannel", "hasAudio", "height", "width"]),
        ("null", None),
    ],
)
async def test_metadata_has_three_forms(form: str, keys: list[str] | None) -> None:
    async with bench(faults={"metadata": form}) as sandbox:
        artifact = (await sandbox.finished(await sandbox.created()))["artifacts"][0]

        assert artifact["metadata"] == keys or sorted(artifact["metadata"]) == keys


async def test_links_expire_in_seconds() -> None:
    async with bench(faults={"links_expire": 0.2}) as sandbox:
        task_id = await sandbox.created()
        url = (await sandbox.finished(task_id))["artifacts"][0]["url"]

        async with asyncio.timeout(10):
            while (expired := await sandbox.client.get(url)).status_code == 200:
                pass
        fresh = (await sandbox.task(task_id)).json()["artifacts"][0]["url"]

        assert expired.status_code == 403
        assert fresh != url
        assert (await sandbox.client.get(fresh)).status_code == 200


@pytest.mark.parametrize("way", ["403", "404", "500"])
async def test_links_fail(way: str) -> None:
    async with bench(faults={"links_fail": {"value": way, "times": 1}}) as sandbox:
        url = (await sandbox.finished(await sandbox.created()))["artifacts"][0]["url"]

        statuses = [(await sandbox.client.get(url)).status_code for _ in range(2)]

        assert statuses == [int(way), 200]


async def test_links_are_cut() -> None:
    async with bench(faults={"links_fail": "cut"}) as sandbox:
        url = (await sandbox.finished(await sandbox.created()))["artifacts"][0]["url"]

        with pytest.raises(httpx2.RemoteProtocolError):
            await sandbox.client.get(url)


async def test_a_film_is_as_large_as_it_is_told_to_be() -> None:
    async with bench(faults={"artifact_bytes": 3_000_000}) as sandbox:
        artifact = (await sandbox.finished(await sandbox.created()))["artifacts"][0]

        film = await sandbox.client.get(artifact["url"])

        assert artifact["fileSize"] == "3000000"
        assert len(film.content) == 3_000_000


# Asking.


@pytest.mark.parametrize("way", ["522", "500", "408", "429"])
async def test_asking_is_answered_with_an_error_and_then_works(way: str) -> None:
    faults = {"get_fails": {"value": way, "times": 1}, "lists_fail": {"value": way, "times": 2}}
    async with bench(faults=faults) as sandbox:
        task_id = await sandbox.created()

        gets = [(await sandbox.task(task_id)).status_code for _ in range(2)]
        lists = [(await sandbox.client.get(path)).status_code for path in (LIST, "scheduler/", LIST, "scheduler/")]

        assert gets == [int(way), 200]
        assert lists == [int(way), int(way), 200, 200]


async def test_asking_is_cut_or_never_answered() -> None:
    async with bench() as sandbox:
        task_id = await sandbox.created()

        sandbox.vendor.faults.replace({"get_fails": "cut", "lists_fail": "cut"})
        for path in ("tasks/" + task_id, LIST, "scheduler/"):
            with pytest.raises(httpx2.RemoteProtocolError):
                await sandbox.client.get(path)
        sandbox.vendor.faults.replace({"get_fails": "hang"})
        with pytest.raises(httpx2.ReadTimeout):
            await sandbox.client.get("tasks/" + task_id, timeout=SHORT_S)


async def test_asking_is_answered_late() -> None:
    async with bench(faults={"get_slow": {"value": SHORT_S, "times": 1}}) as sandbox:
        task_id = await sandbox.created()
        began = time.monotonic()

        answer = await sandbox.task(task_id)

        assert answer.status_code == 200
        assert time.monotonic() - began >= SHORT_S


async def test_errors_are_html_pages_and_answers_are_not() -> None:
    async with bench(faults={"html_errors": True}) as sandbox:
        wrong = await sandbox.create(model="gen9")
        missing = await sandbox.client.get("tasks/nothing")
        right = await sandbox.create()

        assert (wrong.status_code, missing.status_code, right.status_code) == (400, 404, 200)
        assert "<html>" in wrong.text
        assert "<html>" in missing.text


async def test_accounts_and_features_fail() -> None:
    async with bench(faults={"accounts_fail": {"value": "503", "times": 2}}) as sandbox:
        statuses = [(await sandbox.client.get(path)).status_code for path in ("accounts", "features/", "accounts")]

        assert statuses == [503, 503, 200]


async def test_lists_can_leave_out_the_references() -> None:
    async with bench(faults={"lists_without_refs": True}, times_s=(1000, 1000)) as sandbox:
        task_id = await sandbox.created(replyRef="mine", replyUrl="http://127.0.0.1:9/")

        scheduler = (await sandbox.client.get("scheduler/")).json()
        tasks = (await sandbox.client.get(LIST)).json()
        asked = (await sandbox.task(task_id)).json()

        assert scheduler == [{"taskId": task_id}]
        assert not {"replyRef", "replyUrl"} & set(tasks[0])
        assert asked["replyRef"] == "mine"


async def test_lists_can_be_objects() -> None:
    async with bench(faults={"list_body": "object"}) as sandbox:
        await sandbox.created()

        assert len((await sandbox.client.get(LIST)).json()["tasks"]) == 1
        assert (await sandbox.client.get("assets/")).json() == {"assets": []}


async def test_a_task_list_can_need_an_email_always() -> None:
    async with bench(faults={"email_required": True}) as sandbox:
        assert (await sandbox.client.get(LIST)).status_code == 400
        assert (await sandbox.client.get(LIST + "&email=sandbox@example.com")).status_code == 200


async def test_percent_encoded_ids_are_refused_unless_a_fault_takes_them() -> None:
    async with bench() as sandbox:
        task_id = await sandbox.created()
        encoded = sandbox.client.base_url.copy_with(raw_path=b"/v1/runwayml/tasks/" + quote(task_id, safe="").encode())

        refused = await sandbox.client.get(encoded)
        raw = await sandbox.task(task_id)
        sandbox.vendor.faults.replace({"encoded_ids_accepted": True})
        accepted = await sandbox.client.get(encoded)

        assert [refused.status_code, raw.status_code, accepted.status_code] == [404, 200, 200]
        assert b"%3A" in bytes(refused.request.url.raw_path)


# Calling back.


async def test_the_first_callback_arrives_before_the_create_answer() -> None:
    async with (
        bench(faults={"callbacks_before_answer": True}, times_s=(1000, 1000)) as sandbox,
        receiver() as callbacks,
    ):
        answer = await sandbox.create(replyUrl=callbacks.origin)
        arrived = list(callbacks.bodies)

        assert [body["status"] for body in arrived] == ["PENDING"]
        assert arrived[0]["taskId"] == answer.json()["task"]["taskId"]


async def test_final_callbacks_come_alone() -> None:
    async with bench(faults={"callbacks": "final"}) as sandbox, receiver() as callbacks:
        await sandbox.created(replyUrl=callbacks.origin)
        await callbacks.until_final()

        assert callbacks.seen == [("SUCCEEDED", "1")]


async def test_every_callback_comes_twice() -> None:
    async with bench(faults={"callbacks_doubled": 1.0}) as sandbox, receiver() as callbacks:
        await sandbox.created(replyUrl=callbacks.origin)
        await callbacks.until_final(2)

        assert len(callbacks.seen) == 22
        assert callbacks.seen[0::2] == callbacks.seen[1::2]


async def test_callbacks_arrive_in_the_order_that_the_fault_gives_them() -> None:
    async with bench(faults={"callbacks_reordered": True}) as sandbox, receiver() as callbacks:
        await sandbox.created(replyUrl=callbacks.origin)
        await callbacks.until(lambda: len(callbacks.seen) == 11)

        assert [ratio for _, ratio in callbacks.seen][-2:] == ["1", "0.9"]


async def test_a_callback_has_another_shape_and_content_type() -> None:
    faults = {"callbacks": "final", "callback_body": "nested", "callback_content_type": "application/octet-stream"}
    async with bench(faults=faults) as sandbox, receiver() as callbacks:
        task_id = await sandbox.created(replyUrl=callbacks.origin)
        await callbacks.until(lambda: bool(callbacks.requests))

        assert callbacks.bodies[0]["task"]["taskId"] == task_id
        assert callbacks.requests[0][1] == "application/octet-stream"


@pytest.mark.parametrize(("value", "left"), [("ids", set()), ("replyRef", {"taskId"}), ("taskId", {"replyRef"})])
async def test_a_callback_leaves_out_its_ids(value: str, left: set[str]) -> None:
    faults = {"callbacks": "final", "callbacks_without": value}
    async with bench(faults=faults) as sandbox, receiver() as callbacks:
        await sandbox.created(replyUrl=callbacks.origin, replyRef="mine")
        await callbacks.until_final()

        assert {"taskId", "replyRef"} & set(callbacks.bodies[0]) == left


async def test_a_receiver_that_hangs_up_or_is_slow_holds_up_nobody_else() -> None:
    async with bench() as sandbox, receiver() as callbacks:
        held = asyncio.Event()

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await held.wait()
            writer.close()

        server = await asyncio.start_server(stall, "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            await sandbox.created(replyUrl=f"http://127.0.0.1:{port}/")
            await sandbox.created(replyUrl=callbacks.origin)

            await callbacks.until_final()
        finally:
            held.set()
            server.close()
            await server.wait_closed()
