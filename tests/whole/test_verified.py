"""What a running relay has delivered, judged by the official Standard Webhooks libraries of several languages."""

import asyncio
import base64
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from relay.core.signature import sign
from relay.vault import new_webhook_secret
from tests.journeys import journey

pytestmark = pytest.mark.anyio

OFFICIAL = Path(__file__).parent / "official"
OLD_S = 600


def _ruby_has_it() -> bool:
    command = ["ruby", "-e", 'require "standardwebhooks"']
    return shutil.which("ruby") is not None and subprocess.run(command, capture_output=True).returncode == 0


# Ruby's library joins in where it is installed (or RUBYLIB leads to it): not every machine can get it.
PROGRAMS = {"python": [sys.executable, "verify.py"], "javascript": ["node", "verify.mjs"]} | (
    {"ruby": ["ruby", "verify.rb"]} if _ruby_has_it() else {}
)


async def verdicts(program: list[str], webhooks: list[dict[str, Any]]) -> list[bool]:
    """What the library of a program says of each webhook."""
    process = await asyncio.create_subprocess_exec(
        *program,
        cwd=OFFICIAL,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(json.dumps(webhooks).encode()), 60)
    assert process.returncode == 0, err.decode()
    found: list[bool] = json.loads(out)
    return found


def webhook(secret: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    return {"secret": secret, "headers": headers, "body": base64.b64encode(body).decode()}


def spoiled(secret: str, headers: dict[str, str], body: bytes) -> list[dict[str, Any]]:
    """The same webhook in all the ways in which it must be refused."""
    changed = [body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] for at in (0, len(body) // 2, len(body) - 1)]
    event_id = headers["webhook-id"]
    old_s = int(headers["webhook-timestamp"]) - OLD_S
    old = headers | {"webhook-timestamp": str(old_s), "webhook-signature": sign([secret], event_id, old_s, body)}
    later = headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}
    return [
        *(webhook(secret, headers, other) for other in changed),
        webhook(secret, headers, body + b" "),
        webhook(new_webhook_secret(), headers, body),
        webhook(secret, old, body),
        webhook(secret, later, body),
        webhook(secret, headers | {"webhook-id": f"{event_id}0"}, body),
    ]


@pytest.mark.parametrize("language", PROGRAMS)
async def test_the_official_library_takes_what_was_delivered_and_nothing_else(tmp_path: Path, language: str) -> None:
    if shutil.which(PROGRAMS[language][0]) is None:
        pytest.skip(f"{PROGRAMS[language][0]} is not installed here")
    if language == "javascript" and not (OFFICIAL / "node_modules" / "standardwebhooks").exists():
        pytest.skip("the library is not installed here: npm ci --prefix tests/whole/official")
    async with journey(tmp_path) as here:
        secret = (await here.subscribe())["secret"]
        own = new_webhook_secret()
        await here.subscribe(secret=own, types=["job.succeeded"])
        await here.submit(replyRef='Grüße 你好 🎬 \u2028\x85 <"&>')
        await here.subscriber.wait_for(2)
        delivered = here.subscriber.got[:2]

        by_key = [
            await verdicts(PROGRAMS[language], [webhook(key, *one) for one in delivered]) for key in (secret, own)
        ]

        assert sorted(by_key) == [[False, True], [True, False]]
        headers, body = delivered[by_key[0].index(True)]
        refused = await verdicts(PROGRAMS[language], spoiled(secret, headers, body))
        assert refused == [False] * len(refused)


async def test_a_reply_url_is_signed_with_the_key_that_the_relay_publishes(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        await here.submit(replyUrl=here.subscriber.url)
        await here.subscriber.wait_for(1)
        headers, body = here.subscriber.got[0]
        [published] = (await here.get("/.well-known/webhooks-keys.json"))["keys"]

        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(published.removeprefix("whpk_")))
        version, _, signature = headers["webhook-signature"].partition(",")
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        assert (version, published[:5]) == ("v1a", "whpk_")
        assert abs(time.time() - int(headers["webhook-timestamp"])) < 60
        key.verify(base64.b64decode(signature), signed)
        for at in (0, len(signed) // 2, len(signed) - 1):
            with pytest.raises(InvalidSignature):
                key.verify(base64.b64decode(signature), signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :])
