"""A new key: everything at rest is sealed with it, nothing is lost, and the older one opens nothing any more."""

import asyncio
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from standardwebhooks.webhooks import Webhook

from relay.core.signature import verify
from relay.errors import ConfigurationError
from relay.rekey import rekey
from relay.settings import given
from relay.vault import Vault, load_keys
from tests.journeys import Journey, Surroundings, surroundings
from tests.postgres import Cluster
from tests.web.test_session import browser, signed_in
from tests.whole.processes import environment, free_port

pytestmark = pytest.mark.anyio
OLD, NEW = "A" * 43, "B" * 42 + "A"


async def told(here: Journey, secret: str, count: int) -> None:
    """One more job has ended, and its webhook is signed with the secret, and with every key that is published."""
    await here.ended((await here.submit())["id"])
    await here.subscriber.wait_for(count)
    headers, body = here.subscriber.got[count - 1]
    Webhook(secret).verify(body, headers)
    keys = (await here.get("/.well-known/webhooks-keys.json"))["keys"]
    assert len(headers["webhook-signature"].split()) == 1 + len(keys)
    for key in keys:
        verify([key], headers, body, now_s=int(headers["webhook-timestamp"]))


def key_ids(around: Surroundings) -> list[str]:
    return [Vault(key).key_id for key in load_keys(around.folder / "relay.db.key")]


async def test_the_key_file_gets_a_new_key_and_the_older_one_is_needed_for_nothing_at_rest(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        async with around.relay() as here, browser(here) as client:
            settings, secret = here.settings, (await here.subscribe())["secret"]
            await told(here, secret, 1)
            await here.ended((await here.submit(replyUrl=f"{around.subscriber.url}?own"))["id"])
            await signed_in(client)
            cookies = client.cookies
            with pytest.raises(ConfigurationError, match="another relay already uses"):
                await rekey(settings, forget=False)
        [old] = key_ids(around)
        done = await rekey(settings, forget=False)
        count = len(around.subscriber.got)
        async with around.relay() as here, browser(here) as client:
            client.cookies = cookies
            assert (await client.get("/session")).status_code == 200
            await told(here, secret, count + 1)
        assert key_ids(around) == [done.key_id, old]
        forgotten = await rekey(settings, forget=True)
        count = len(around.subscriber.got)
        async with around.relay() as here, browser(here) as client:
            client.cookies = cookies
            assert (await client.get("/session")).status_code == 401
            await told(here, secret, count + 1)

    # The subscription's address and secret, and twice the reply URL.
    assert (done.resealed, done.older, forgotten.resealed, forgotten.older) == (4, 1, 0, 0)
    assert key_ids(around) == [done.key_id]
    assert old != done.key_id
    for file in (around.database, Path(f"{around.database}-wal")):
        assert f"s1.{old}.".encode() not in file.read_bytes() if file.exists() else True


async def test_keys_of_the_settings_are_changed_by_putting_the_new_one_first(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        async with around.relay(secret_key=OLD) as here:
            secret = (await here.subscribe())["secret"]
        async with around.relay(secret_key=f"{NEW},{OLD}") as here:
            await told(here, secret, 1)
        command = [sys.executable, "-m", "relay.cli.main", "rekey"]
        env = environment(around, free_port(), secret_key=f"{NEW},{OLD}")
        run = partial(subprocess.run, command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30)
        said = await asyncio.to_thread(run)
        assert said.returncode == 0, said.stderr
        async with around.relay(secret_key=NEW) as here:
            await told(here, secret, 2)
        lost = given(**around.values(1) | {"secret_key": OLD})
        with pytest.raises(ConfigurationError, match="sealed with another key"):
            await rekey(lost, forget=False)

    assert "2 sealed texts were sealed anew" in said.stdout
    assert "older keys may go from RELAY_SECRET_KEY" in said.stdout
    assert not (tmp_path / "relay.db.key").exists()


async def test_on_postgresql_it_is_done_while_relays_are_at_work(tmp_path: Path, postgres: Cluster) -> None:
    url = await postgres.database(str(tmp_path))
    both: dict[str, Any] = {"database_url": url, "secret_key": f"{NEW},{OLD}"}
    async with surroundings(tmp_path) as around:
        async with around.relay(database_url=url, secret_key=OLD) as here:
            secret = (await here.subscribe())["secret"]
        async with around.relay(**both) as here:
            done = await rekey(here.settings, forget=False)
            await told(here, secret, 1)
        async with around.relay(database_url=url, secret_key=NEW) as here:
            await told(here, secret, 2)
    connection = await asyncpg.connect(url)
    row = await connection.fetchrow("SELECT url_sealed, secrets FROM subscriptions")
    await connection.close()

    assert (done.resealed, done.older) == (2, 1)
    assert f"s1.{done.key_id}." in row["url_sealed"]
    assert row["secrets"].count(f"s1.{done.key_id}.") == row["secrets"].count("s1.") == 1
