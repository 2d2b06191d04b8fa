"""The faithful sandbox's files over real HTTP: films, pictures and assets."""

import hashlib
from collections.abc import AsyncGenerator

import httpx2
import pytest

from relay.clock import ManualClock
from relay.sandbox.shapes import Account
from tests.sandbox.serving import bench

pytestmark = pytest.mark.anyio

TWO = [Account("one@example.com", 1), Account("two@example.com", 1)]


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


async def test_the_base_url_of_artifacts_is_the_hosts_or_the_one_given() -> None:
    async with bench() as sandbox:
        task_id = await sandbox.created()
        here = (await sandbox.finished(task_id))["artifacts"][0]["url"]
    async with bench(base_url="https://elsewhere.example/") as sandbox:
        task_id = await sandbox.created()
        elsewhere = (await sandbox.finished(task_id))["artifacts"][0]["url"]

    assert here.startswith("http://127.0.0.1:")
    assert elsewhere.startswith("https://elsewhere.example/artifacts/")
