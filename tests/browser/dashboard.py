"""The dashboard in a tab: signing in, going somewhere, and what a person sees there."""

from playwright.async_api import Page, expect

from tests.browser.conftest import Tabs
from tests.journeys import ADMIN_TOKEN

PAGES = ("jobs", "submit", "accounts", "subscriptions", "quarantine", "tokens", "stats")


async def sign_in(tabs: Tabs, url: str, token: str = ADMIN_TOKEN) -> Page:
    """A tab with the dashboard, signed in and live."""
    page = await tabs.open(url)
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await live(page)
    return page


async def live(page: Page) -> None:
    await expect(page.locator(".live")).to_have_text("Live", timeout=20_000)


async def go(page: Page, path: str) -> None:
    """To a page of the dashboard, once it has read what it shows."""
    await page.evaluate("(path) => { location.hash = `#/${path}` }", path)
    await expect(page.locator(f"main.{path.partition('/')[0]} h1")).to_be_focused()
    await expect(page.get_by_text("Loading…")).to_have_count(0)
