"""Files that are kept in a bucket: a real S3 server, and addresses that lead readers to it."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from moto.server import ThreadedMotoServer

from relay import settings
from relay.doctor import local
from relay.errors import ConfigurationError
from relay.store.bucket import Bucket
from tests.journeys import journey
from tests.web.test_kept import all_kept

pytestmark = pytest.mark.anyio

URL = "s3://films/of/relay"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the bucket `films`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {"ENDPOINT_URL": f"http://{host}:{port}", "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    for name, value in {**values, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with httpx2.Client(trust_env=False) as client:
        client.post(f"http://{host}:{port}/moto-api/reset")
        assert client.put(f"http://{host}:{port}/films").status_code == 200
    yield f"http://{host}:{port}/films"
    server.stop()


def kept(bucket: str) -> list[str]:
    with httpx2.Client(trust_env=False) as client:
        text = client.get(bucket, params={"list-type": "2"}).text
    names = [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]
    return sorted(name.removeprefix("of/relay/") for name in names if not name.endswith("instance"))


async def test_addresses_lead_to_the_bucket_and_everything_goes_with_its_job(tmp_path: Path, bucket: str) -> None:
    async with journey(tmp_path, artifacts=URL, artifacts_before_final=True) as here:
        job = await here.ended((await here.submit())["id"])
        rows = await all_kept(here)
        there = kept(bucket)
        here.vendor.faults.replace({"links_fail": "500"})
        artifact = (await here.job(job["id"]))["artifacts"][0]
        async with httpx2.AsyncClient(trust_env=False) as stranger:
            led = await stranger.get(artifact["url"])
            head = await stranger.head((await stranger.head(artifact["url"])).headers["location"])
            film = await stranger.get(led.headers["location"])
            part = await stranger.get(led.headers["location"], headers={"Range": "bytes=4-7"})
            forged = await stranger.get(artifact["url"].replace("sig=", "sig=x"))
        verified = [(await here.client.post(f"/v1/artifacts/{row['id']}/verify", json={})).json() for row in rows]
        await here.client.delete(f"/v1/jobs/{job['id']}")
        await here.until(lambda: here.get("/v1/artifacts"), lambda page: page["data"] == [])

    assert artifact["keptUntil"] is not None
    assert there == sorted(
        f"{job['id'][-2:]}/{name}" for name in (f"{job['id']}-0.mp4", f"{job['id']}-0-preview-0.png")
    )
    assert (led.status_code, led.headers["cache-control"]) == (307, "no-store")
    assert led.headers["location"].startswith(f"{bucket}/of/relay/")
    assert (film.status_code, film.headers["content-type"], film.content[4:8]) == (200, "video/mp4", b"ftyp")
    assert len(film.content) == artifact["sizeBytes"]
    assert (head.status_code, part.status_code, part.content) == (200, 206, b"ftyp")
    assert forged.status_code == 404
    assert [row["sound"] for row in verified] == [True, True]
    assert kept(bucket) == []


async def test_a_start_removes_what_no_row_speaks_of_and_what_is_damaged_is_found(tmp_path: Path, bucket: str) -> None:
    async with journey(tmp_path, artifacts=URL) as here:
        await here.ended((await here.submit())["id"])
        rows = await all_kept(here)
        folder: Any = here.node.app.state.folder
        names = kept(bucket)
        async with httpx2.AsyncClient(trust_env=False) as anybody:
            for name in (names[0].replace("-0", "-7"), "notes.txt"):
                await anybody.put(f"{bucket}/of/relay/{name}", content=b"x")
            swept = await folder.sweep(here.node.app.state.store.files_kept)
            left = kept(bucket)
        folder._obstore.put(folder._store, names[0], b"x")
        await folder.remove(names[1])
        found = [(await here.client.post(f"/v1/artifacts/{row['id']}/verify", json={})).json() for row in rows]

    assert (swept, left) == (1, sorted((*names, "notes.txt")))
    assert {row["reason"] for row in found} == {
        "its bytes are not those that were kept",
        "it cannot be read: it is not there",
    }


async def test_a_bucket_serves_one_relay_and_must_be_there(tmp_path: Path, bucket: str) -> None:
    await Bucket(URL, tmp_path / "spool", "00000001").aclose()
    with pytest.raises(ConfigurationError, match="another relay"):
        Bucket(URL, tmp_path / "other", "00000002")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Bucket("s3://nothing/here", tmp_path / "third", "00000002")


async def test_while_the_bucket_cannot_be_reached_the_job_goes_on(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(0, "no connection")

    async with journey(tmp_path, artifacts=URL) as here:
        monkeypatch.setattr(Bucket, "put", broken)
        job = await here.ended((await here.submit())["id"])
        told = await here.job_that(job["id"], lambda job: bool(job["artifacts"][0].get("notKept")))
        async with httpx2.AsyncClient(trust_env=False) as stranger:
            served = await stranger.get(told["artifacts"][0]["url"])

    assert told["artifacts"][0]["notKept"] == "the storage cannot be written: no connection"
    assert (served.status_code, served.content[4:8]) == (200, b"ftyp")


async def test_a_large_file_is_put_by_one_request_so_that_a_kill_leaves_no_parts(tmp_path: Path, bucket: str) -> None:
    faults = {"artifact_bytes": 12 * 1024 * 1024}
    async with journey(tmp_path, faults=faults, artifacts=URL, artifacts_before_final=True) as here:
        job = await here.ended((await here.submit())["id"])
        async with httpx2.AsyncClient(trust_env=False, follow_redirects=True) as stranger:
            film = await stranger.get(job["artifacts"][0]["url"])

    assert len(film.content) == job["artifacts"][0]["sizeBytes"] == 12 * 1024 * 1024
    assert "-" not in film.headers["etag"], "the tag of one that came in parts has the number of them"


async def test_doctor_writes_to_the_bucket_and_says_what_to_do_where_it_cannot(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"UPSTREAM_TOKEN": "x", "ADMIN_TOKEN": "a" * 24, "ARTIFACTS": URL}.items():
        monkeypatch.setenv(f"RELAY_{name}", value)
    good = {row.name: row for row in local.examine(settings.load())}
    left = kept(bucket)
    monkeypatch.setenv("RELAY_ARTIFACTS", "s3://nothing/here")
    bad = {row.name: row for row in local.examine(settings.load())}

    assert (good["artifacts"].verdict, good["bucket"].verdict, left) == ("ok", "ok", [])
    assert (bad["bucket"].verdict, bad["artifacts"].verdict) == ("failure", "ok")
    assert "s3://nothing/here cannot be used" in bad["bucket"].sentence
    assert "AWS_" in (bad["bucket"].remedy or "")
    assert os.listdir(tmp_path) == []  # it looks, and makes nothing
