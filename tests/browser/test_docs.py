"""`/docs` in a real browser: all operations are there to be read and tried, and nothing comes from elsewhere."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Tabs
from tests.journeys import journey

pytestmark = pytest.mark.anyio


async def test_the_page_shows_every_operation_and_tries_one(
    tmp_path: Path, tabs: Tabs, picture: Callable[[Page, str], Awaitable[Path]]
) -> None:
    async with journey(tmp_path) as here:
        said = await here.get("/openapi.json")
        policy = (await here.client.get("/docs")).headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'"} <= set(policy)
        page = await tabs.open(f"{here.relay_url}/docs")
        for methods in said["paths"].values():
            for operation in methods.values():
                await expect(page.get_by_text(operation["summary"], exact=True).first).to_be_attached()
        await picture(page, "docs")

        await page.goto(f"{here.relay_url}/docs#?route=get-/v1/jobs")
        await expect(page.get_by_text("A page of jobs, newest first").first).to_be_visible()
        await picture(page, "docs-jobs")

        # Where it is tried in earnest, the answer is shown that the relay gives.
        await page.goto(f"{here.relay_url}/docs#?route=get-/healthz")
        await page.get_by_text("EXECUTE", exact=True).first.click()
        await expect(page.get_by_text('"status"').first).to_be_visible()
        await picture(page, "docs-tried")
