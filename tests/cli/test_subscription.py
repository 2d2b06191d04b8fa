"""`relay subscription`, as an operator uses it: a process of its own, against a relay with a subscriber."""

import json
from pathlib import Path

import pytest

from relay.vault import new_webhook_secret
from tests.cli.test_commands import at, relay
from tests.journeys import journey

pytestmark = pytest.mark.anyio


async def test_a_subscription_is_made_listed_shown_and_removed(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        chosen = ("--types=job.succeeded, job.failed", "--models=gen4.5", "--reply-ref=order-7", "--description=shop")
        _, made, said = await relay("subscription", "create", here.subscriber.url, *chosen, env=at(here))
        _, table, _ = await relay("subscription", "list", env=at(here))
        _, text, _ = await relay("subscription", "list", "--json", env=at(here))
        [row] = json.loads(text)
        _, fields, _ = await relay("subscription", "show", row["id"], env=at(here))
        code, gone, _ = await relay("subscription", "remove", row["id"], env=at(here))
        missing = await relay("subscription", "show", row["id"], env=at(here))
        wrong = await relay("subscription", "create", "ftp://example.com", env=at(here))

        assert said == ""
        assert made.split()[:3] == ["subscription", row["id"], "secret"]
        assert made.split()[3].startswith("whsec_")
        assert made.split()[3] not in table + text + fields
        assert row["types"] == ["job.succeeded", "job.failed"]
        assert (row["models"], row["replyRef"], row["description"]) == (["gen4.5"], "order-7", "shop")
        assert all(word in table for word in (row["id"], "active", "job.succeeded", "job.failed"))
        assert all(word in fields for word in (row["id"], "order-7", "shop", "gen4.5"))
        assert (code, gone.strip()) == (0, f"removed {row['id']}")
        assert (missing[0], "there is no subscription" in missing[2]) == (1, True)
        assert (wrong[0], wrong[1]) == (1, "")


async def test_an_update_changes_what_is_named_and_clears_what_is_empty(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe(replyRef="order-7", models=["gen4.5"], description="shop")
        changes = ("--to", f"{here.subscriber.url}?more", "--types=job.queued", "--reply-ref=", "--models=")
        code, text, said = await relay("subscription", "update", made["id"], *changes, "--json", env=at(here))
        nothing = await relay("subscription", "update", made["id"], env=at(here))

        now = json.loads(text)
        assert (code, said) == (0, "")
        assert (now["types"], now["models"], now["replyRef"], now["description"]) == (["job.queued"], [], None, "shop")
        assert now["url"].endswith("more")
        assert (nothing[0], "nothing to change" in nothing[2]) == (2, True)


async def test_a_secret_is_rotated_and_both_sign_for_a_while(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made, own = await here.subscribe(), new_webhook_secret()
        code, new, said = await relay("subscription", "rotate", made["id"], "--keep-old-for=6h", env=at(here))
        _, again, _ = await relay("subscription", "rotate", made["id"], f"--secret={own}", env=at(here))
        long = await relay("subscription", "rotate", made["id"], "--keep-old-for=9d", env=at(here))
        await here.submit()
        await here.subscriber.wait_for(1)
        [(headers, _)] = here.subscriber.got

        assert (code, said) == (0, "")
        assert new.startswith("whsec_")
        assert again.strip() == own
        assert long[0] == 1
        assert sum(signature.startswith("v1,") for signature in headers["webhook-signature"].split()) == 3


async def test_a_ping_shows_the_answer_and_fails_with_it(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe()
        here.subscriber.answers = [204, 500]
        good = await relay("subscription", "ping", made["id"], "--json", env=at(here))
        bad = await relay("subscription", "ping", made["id"], env=at(here))

        assert (good[0], json.loads(good[1])["status"]) == (0, 204)
        assert (bad[0], "500" in bad[1]) == (1, True)


async def test_a_disabled_one_is_enabled_with_what_it_is_owed(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe()
        here.subscriber.answers = [410]
        await here.submit()
        await here.until(
            lambda: here.get(f"/v1/subscriptions/{made['id']}"), lambda found: bool(found["state"] == "disabled")
        )
        code, fields, said = await relay("subscription", "enable", made["id"], "--backlog=final", env=at(here))
        await here.subscriber.wait_for(2)

        assert (code, said) == (0, "")
        assert "active" in fields
        assert len({headers["webhook-id"] for headers, _ in here.subscriber.got}) == 1
