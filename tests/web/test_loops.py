"""Webhooks do not go round in a ring: the relay calls none of its own doors, and knows its own mark."""

from pathlib import Path

import pytest

from relay.core.target import HOP_HEADER, MAX_HOPS
from tests.journeys import EXAMPLE, journey

pytestmark = pytest.mark.anyio


async def test_a_subscription_to_the_relay_itself_is_refused_even_when_its_address_is_allowed(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        port = running.settings.port
    async with journey(tmp_path, allow_targets=f"127.0.0.1:{port},localhost:{port}", port=port) as running:
        for host in ("127.0.0.1", "localhost", "[::1]"):
            url = f"http://{host}:{port}/v1/jobs"
            refused = await running.client.post("/v1/subscriptions", json={"url": url})
            assert [problem["rule"] for problem in refused.json()["problems"]] == ["self"]
            refused = await running.client.post("/v1/jobs", json=EXAMPLE | {"replyUrl": url})
            assert [problem["rule"] for problem in refused.json()["problems"]] == ["self"]


async def test_a_webhook_that_is_handed_on_to_the_relay_that_sent_it_makes_no_work(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        await running.subscribe()
        await running.submit()
        await running.subscriber.wait_for(1)
        mark = {HOP_HEADER: running.subscriber.got[0][0][HOP_HEADER]}
        for path in ("/v1/jobs", "/v1/runwayml/videos/create"):
            for header in (mark, {HOP_HEADER: ",".join("x" * (MAX_HOPS + 1))}):
                refused = await running.client.post(path, json=EXAMPLE, headers=header)
                assert refused.status_code in (400, 422)
                assert refused.json()["problems"][0]["rule"] == "loop"
        assert len((await running.get("/v1/jobs"))["data"]) == 1
        from_elsewhere = await running.client.post("/v1/jobs", json=EXAMPLE, headers={HOP_HEADER: "0badcafe"})
        assert from_elsewhere.status_code == 202
