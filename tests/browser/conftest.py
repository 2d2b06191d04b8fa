"""One Chromium for all tests, and pages in it that must not go wrong unseen.

`SCREENSHOTS=folder` keeps the pictures that tests make, which are thrown away otherwise.
"""

import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright, expect

QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
]

# Some pages look again every five seconds, which is just what is waited for without this.
expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
async def chromium() -> AsyncGenerator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=QUIET)
        yield browser
        await browser.close()


@dataclass
class Tabs:
    """The tabs of one browser profile; `wrong` is what a person with the developer tools open would see in red."""

    context: BrowserContext
    wrong: list[str] = field(default_factory=list)
    abroad: list[str] = field(default_factory=list)

    async def open(self, url: str) -> Page:
        page = await self.context.new_page()
        await page.goto(url)
        return page

    def watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.wrong.append(f"uncaught: {error}"))
        page.on("console", self._console)

    def _console(self, message: ConsoleMessage) -> None:
        # The browser itself says so of each answer that is an error, and tests make many of those.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.wrong.append(message.text)

    def request(self, request: Request) -> None:
        host = urlsplit(request.url).hostname
        if host not in (None, "127.0.0.1"):
            self.abroad.append(request.url)


Profile = Callable[..., Awaitable[Tabs]]


@pytest.fixture
async def profile(chromium: Browser) -> AsyncGenerator[Profile]:
    """Makes profiles, each with cookies and workers of its own; asks at the end whether all was well in them."""
    made: list[Tabs] = []

    async def new(**options: Any) -> Tabs:
        tabs = Tabs(await chromium.new_context(**options))
        tabs.context.set_default_timeout(20_000)
        tabs.context.on("page", tabs.watch)
        tabs.context.on("request", tabs.request)
        made.append(tabs)
        return tabs

    yield new
    for tabs in made:
        await tabs.context.close()
    assert [line for tabs in made for line in tabs.wrong] == []
    assert [url for tabs in made for url in tabs.abroad] == []


@pytest.fixture
async def tabs(profile: Profile) -> Tabs:
    return await profile()


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[Page, str], Awaitable[Path]]:
    """Takes a picture of a page, as it is on the screen."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    async def take(page: Page, name: str) -> Path:
        path = folder / f"{name}.png"
        await page.screenshot(path=path)
        return path

    return take
