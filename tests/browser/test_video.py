"""A browser plays a job's video from the relay, and seeks in it."""

from pathlib import Path

import pytest
from playwright.async_api import Response

from tests.browser.conftest import Tabs
from tests.journeys import journey

pytestmark = pytest.mark.anyio

PLAY = """async (url) => {
  const video = document.createElement('video')
  const told = (name) => new Promise((done, failed) => {
    video.addEventListener(name, done, { once: true })
    video.addEventListener('error', () => failed(new Error(video.error.message)), { once: true })
  })
  const pixels = () => {
    const canvas = new OffscreenCanvas(64, 36).getContext('2d')
    canvas.drawImage(video, 0, 0, 64, 36)
    return canvas.getImageData(0, 0, 64, 36).data.join()
  }
  document.body.append(video)
  video.muted = true
  video.src = url
  await told('loadeddata')
  const first = pixels()
  await Promise.all([told('timeupdate'), video.play()])
  video.pause()
  const moved = told('seeked')
  video.currentTime = 4
  await moved
  const { duration, videoWidth, videoHeight, currentTime } = video
  return { duration, size: [videoWidth, videoHeight], currentTime, moves: pixels() !== first }
}"""


async def test_a_browser_plays_and_seeks_the_mirrored_video(tmp_path: Path, tabs: Tabs) -> None:
    kept = f"file://{tmp_path / 'kept'}"
    answers: list[Response] = []
    async with journey(tmp_path, artifacts=kept, artifacts_before_final=True) as here:
        job = await here.ended((await here.submit())["id"])
        url = job["artifacts"][0]["url"]
        await tabs.context.route(f"{here.relay_url}/", lambda route: route.fulfill(body="<title>bare</title><body>"))
        page = await tabs.open(f"{here.relay_url}/")
        page.on("response", lambda answer: answers.append(answer))  # noqa: PLW0108 # it marks what it is given
        seen = await page.evaluate(PLAY, url)
        parts = [answer for answer in answers if "range" in answer.request.headers]

    assert job["artifacts"][0]["keptUntil"] is not None
    assert seen == {"duration": 5, "size": [320, 180], "currentTime": 4, "moves": True}
    assert parts
    assert all((answer.status, answer.headers["accept-ranges"]) == (206, "bytes") for answer in parts)
