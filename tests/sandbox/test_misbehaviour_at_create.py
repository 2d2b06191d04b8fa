"""Every fault of creating over real HTTP, as the relay would meet it."""

import asyncio
import time
from typing import Any

import httpx2
import pytest

from relay.sandbox.shapes import Account
from tests.sandbox.serving import bench

pytestmark = pytest.mark.anyio

LIST = "tasks/?offset=0&limit=10"
SHORT_S = 0.3


@pytest.mark.parametrize(
    ("shape", "at_top", "in_task"), [("nested", False, True), ("flat", True, False), ("both", True, True)]
)
async def test_create_and_get_have_three_shapes(shape: str, at_top: bool, in_task: bool) -> None:
    async with bench(faults={"create_body": shape, "get_body": shape}) as sandbox:
        create = (await sandbox.create()).json()
        task_id = create.get("taskId") or create["task"]["taskId"]

        get = (await sandbox.task(task_id)).json()

        for body in (create, get):
            assert ("taskId" in body, "taskId" in body.get("task", {})) == (at_top, in_task)


@pytest.mark.parametrize("switch", ["create_fails", "create_lost"])
@pytest.mark.parametrize("way", ["522", "500", "502", "503", "504", "408"])
async def test_a_create_is_answered_with_a_text_and_the_task_is_there_or_not(switch: str, way: str) -> None:
    async with bench(faults={switch: {"value": way, "times": 1}}) as sandbox:
        answer = await sandbox.create(replyRef="mine")
        again = await sandbox.create()

        assert (answer.status_code, answer.text) == (int(way), f"error code: {way}")
        assert answer.headers["content-type"].startswith("text/plain")
        assert again.status_code == 200
        references = [task["replyRef"] for task in (await sandbox.state())["tasks"]]
        assert ("mine" in references) == (switch == "create_lost")


@pytest.mark.parametrize(("switch", "tasks"), [("create_fails", 0), ("create_lost", 1)])
async def test_a_create_is_cut_without_a_byte(switch: str, tasks: int) -> None:
    async with bench(faults={switch: "cut"}) as sandbox:
        with pytest.raises(httpx2.RemoteProtocolError, match="without sending a response"):
            await sandbox.create()

        assert (await sandbox.state())["submits"] == tasks


@pytest.mark.parametrize(("switch", "tasks"), [("create_fails", 0), ("create_lost", 1)])
async def test_a_create_is_never_answered(switch: str, tasks: int) -> None:
    async with bench(faults={switch: "hang"}) as sandbox:
        with pytest.raises(httpx2.ReadTimeout):
            await sandbox.client.post("videos/create", json={"model": "gen4.5", "text_prompt": "x"}, timeout=SHORT_S)

        assert (await sandbox.state())["submits"] == tasks


async def test_a_create_is_answered_with_html() -> None:
    async with bench(faults={"create_lost": "html"}) as sandbox:
        answer = await sandbox.create()

        assert answer.status_code == 502
        assert answer.headers["content-type"].startswith("text/html")
        assert "<html>" in answer.text


async def test_a_task_appears_seconds_after_its_create_was_cut() -> None:
    faults = {"create_lost": {"value": "cut", "times": 1}, "appears_after": {"value": 0.3, "times": 1}}
    async with bench(faults=faults, times_s=(1000, 1000)) as sandbox:
        with pytest.raises(httpx2.RemoteProtocolError):
            await sandbox.create(replyRef="mine")
        before = (await sandbox.client.get("scheduler/")).json()

        async with asyncio.timeout(10):
            while not (found := (await sandbox.client.get("scheduler/")).json()):
                pass

        assert before == []
        assert found[0]["replyRef"] == "mine"


async def test_a_create_is_answered_late_but_its_task_is_there() -> None:
    async with bench(faults={"create_slow": SHORT_S}) as sandbox:
        began = time.monotonic()
        creating = asyncio.create_task(sandbox.create(replyRef="mine"))
        async with asyncio.timeout(10):
            while not (await sandbox.state())["tasks"]:
                pass
        there_after_s = time.monotonic() - began
        answer = await creating

        assert answer.status_code == 200
        assert there_after_s < SHORT_S <= time.monotonic() - began


@pytest.mark.parametrize(
    ("faults", "status", "body"),
    [
        ({"refused": True}, 400, {"error": "The request was refused.", "code": 400}),
        ({"no_credits": "412"}, 412, {"error": "You do not have enough credits to run this task."}),
        ({"no_credits": "402"}, 402, {"error": "You do not have enough credits to run this task."}),
        ({"no_credits_for": "sandbox@example.com"}, 412, {"error": "You do not have enough credits to run this task."}),
        ({"unauthorized": True}, 401, {"error": "Unauthorized", "code": 401}),
        (
            {"busy": True},
            429,
            {
                "error": "Account sandbox@example.com is busy executing 2 tasks",
                "runningTasks": {"sandbox@example.com": []},
                "code": 429,
            },
        ),
        (
            {"provider_limit": True},
            429,
            {
                "error": "You have too many tasks running or pending. Please wait for some of them to finish before "
                "starting more."
            },
        ),
    ],
)
async def test_a_create_is_refused_in_the_upstreams_words(faults: dict[str, Any], status: int, body: Any) -> None:
    async with bench(faults=faults) as sandbox:
        answer = await sandbox.create()

        assert (answer.status_code, answer.json()) == (status, body)
        assert (await sandbox.state())["submits"] == 0


async def test_a_create_is_moderated_and_only_so_often() -> None:
    async with bench(faults={"moderated": {"value": True, "times": 1}}) as sandbox:
        answers = [await sandbox.create(), await sandbox.create()]

        assert [answer.status_code for answer in answers] == [422, 200]
        assert answers[0].json()["code"] == 422


async def test_an_account_without_credits_is_passed_over_for_one_that_has_them() -> None:
    accounts = [Account("poor@example.com", 2), Account("rich@example.com", 2)]
    async with bench(accounts=accounts, faults={"no_credits_for": "poor@example.com"}) as sandbox:
        owners = {(await sandbox.created()).split(":")[2] for _ in range(2)}
        named = await sandbox.create(email="poor@example.com")
        features = (await sandbox.client.get("features/?email=poor@example.com")).json()

        assert owners == {"rich@example.com-task"}
        assert named.status_code == 412
        assert features["used"] == features["permitted"]


async def test_a_broken_account_says_so_and_takes_no_tasks() -> None:
    accounts = [Account("ok@example.com", 2), Account("broken@example.com", 2)]
    async with bench(accounts=accounts, faults={"account_broken": "broken@example.com"}) as sandbox:
        shown = (await sandbox.client.get("accounts")).json()
        owners = {(await sandbox.created()).split(":")[2] for _ in range(2)}
        named = await sandbox.create(email="broken@example.com")

        assert "error" in shown["broken@example.com"]
        assert "error" not in shown["ok@example.com"]
        assert owners == {"ok@example.com-task"}
        assert named.status_code == 400


async def test_an_unchecked_upstream_takes_models_that_nobody_knows() -> None:
    async with bench(faults={"unchecked": True}) as sandbox:
        answer = await sandbox.create(model="gen9", duration="a while", novelty={"a": 1})

        assert answer.status_code == 200
        assert answer.json()["task"]["taskType"] == "gen9"


async def test_assets_that_were_never_uploaded_can_be_accepted() -> None:
    asset = "user:1-runwayml:sandbox@example.com-asset:00000000-0000-4000-8000-000000000001"
    async with bench(faults={"assets_unchecked": True}) as sandbox:
        answer = await sandbox.create(imageAssetId1=asset)

        assert answer.status_code == 200
        assert answer.json()["task"]["options"]["route"] == "i2v"
