"""Thousands of requests made of the document, good and bad ones, against a relay with the sandbox behind it."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from relay.core.event import TYPES
from tests.journeys import ADMIN_TOKEN, EXAMPLE, journey

pytestmark = pytest.mark.anyio

CONFIG = Path(__file__).parent / "schemathesis.toml"
PROGRAM = Path(sys.executable).parent / "schemathesis"


@pytest.mark.timeout(600)  # half a minute, on a machine that has nothing else to do
@pytest.mark.parametrize("scopes", [["submit", "read", "manage"], ["submit"]], ids=["admin", "submit"])
async def test_no_request_gets_an_answer_that_the_document_does_not_have(tmp_path: Path, scopes: list[str]) -> None:
    async with journey(tmp_path, callback_inbox_token="the-inbox-of-the-tests-only") as here:
        token = ADMIN_TOKEN
        if scopes == ["submit"]:
            made = await here.client.post("/v1/tokens", json={"name": "tried", "scopes": scopes})
            token = made.json()["token"]
        subscription = await here.subscribe(types=list(TYPES))
        bearer = {"Authorization": f"Bearer {token}"}
        job = (await here.client.post("/v1/jobs", json=EXAMPLE, headers=bearer)).json()
        await here.ended(job["id"])
        delivery = (await here.get(f"/v1/jobs/{job['id']}/deliveries"))["data"][0]
        ids = {"JOB": job["id"], "SUBSCRIPTION": subscription["id"], "DELIVERY": delivery["id"]}
        tried = await asyncio.create_subprocess_exec(
            PROGRAM, "--config-file", CONFIG, "--no-color", "run", f"{here.relay_url}/openapi.json",
            "--header", f"Authorization: {bearer['Authorization']}",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path, env=os.environ | ids,
        )  # fmt: skip
        said = (await tried.communicate())[0].decode()

    assert tried.returncode == 0, said
    passed = re.search(r"(\d+) generated, \1 passed", said)
    assert passed is not None, said
    assert int(passed[1]) > 1_000, said
