"""How the dashboard looks: legible to machines and people, in light and dark, and on the narrowest telephone."""

import gzip
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from relay.web.static import FOLDER, files
from tests.browser.conftest import Profile
from tests.browser.dashboard import go, sign_in
from tests.browser.scene import job_of, scene
from tests.journeys import Journey

pytestmark = pytest.mark.anyio

AXE = Path(__file__).parent.parent / "whole" / "official" / "node_modules" / "axe-core" / "axe.min.js"
SIZES = {"light": (1280, 800), "dark": (1280, 800), "narrow": (360, 740)}
WEIGHT_MAX_BYTES = 60 * 1024

Picture = Callable[[Page, str], Awaitable[Path]]


@pytest.fixture(scope="module")
async def day(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[Journey, dict[str, str]]]:
    async with scene(tmp_path_factory.mktemp("scene")) as here:
        yield here, await views(here)


async def views(here: Journey) -> dict[str, str]:
    """Every page by the name that its picture has."""
    subscriptions = (await here.get("/v1/subscriptions"))["data"]
    jobs = {state: (await job_of(here, state))["id"] for state in ("running", "succeeded", "failed", "queued")}
    return {
        "list": "jobs",
        "job": f"jobs/{jobs['succeeded']}",
        "job-running": f"jobs/{jobs['running']}",
        "job-failed": f"jobs/{jobs['failed']}",
        "job-queued": f"jobs/{jobs['queued']}",
        "submit": "submit",
        "accounts": "accounts",
        "subscriptions": "subscriptions",
        **{f"subscription-{number}": f"subscriptions/{one['id']}" for number, one in enumerate(subscriptions, 1)},
        "quarantine": "quarantine",
        "tokens": "tokens",
        "stats": "stats",
    }


async def faults(page: Page) -> list[str]:
    """What axe finds, by the rules of WCAG 2.2 A and AA and of good practice."""
    found: list[dict[str, Any]] = (await page.evaluate("() => axe.run(document)"))["violations"]
    return [f"{one['id']}: {node['html'][:200]} {node['any'][:1]}" for one in found for node in one["nodes"]]


@pytest.mark.skipif(not AXE.exists(), reason="axe is not here: npm ci --ignore-scripts --prefix tests/whole/official")
@pytest.mark.parametrize("look", SIZES)
async def test_every_page_is_accessible_fits_and_has_its_picture_taken(
    day: tuple[Journey, dict[str, str]], profile: Profile, picture: Picture, look: str
) -> None:
    (here, paths), (width, height) = day, SIZES[look]
    tabs = await profile(
        color_scheme="dark" if look == "dark" else "light",
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
        # axe would be kept out of the page by its own policy.
        bypass_csp=True,
    )
    await tabs.context.add_init_script(path=AXE)
    wrong: dict[str, Any] = {}
    page = await tabs.open(here.relay_url)
    await expect(page.get_by_label("Token")).to_be_visible()
    await picture(page, f"door-{look}")
    wrong["door"] = await faults(page)
    await page.close()
    page = await sign_in(tabs, here.relay_url)
    for name, path in paths.items():
        await go(page, path)
        await settled(page)
        await picture(page, f"{name}-{look}")
        wide = await page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        wrong[name] = await faults(page) + ([f"{wide} px too wide"] if wide > 0 else [])
    await go(page, "subscriptions")
    await page.get_by_role("button", name="New subscription").click()
    await picture(page, f"dialog-{look}")
    wrong["dialog"] = await faults(page)

    assert {name: found for name, found in wrong.items() if found} == {}


async def settled(page: Page) -> None:
    """Pictures have come, and prompts; the mouse is out of the way."""
    await page.mouse.move(0, 0)
    await page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    await expect(page.locator(".job .quiet")).to_have_count(0)


def test_the_dashboard_is_small() -> None:
    loaded = [name for name in files() if name.startswith(("dashboard/", "vendor/")) or name == "relay.js"]
    loaded = [name for name in loaded if name.endswith((".js", ".css", ".svg")) and name != "dashboard/chart.js"]
    weights = {name: len(files()[name].packed) for name in loaded}
    shell = len(gzip.compress((FOLDER / "dashboard" / "shell.html").read_bytes()))

    assert len(weights) > 10
    assert sum(weights.values()) + shell <= WEIGHT_MAX_BYTES, json.dumps(weights, indent=2)


def test_what_is_vendored_has_its_licence_beside_it() -> None:
    for script in (FOLDER / "vendor").glob("*.js"):
        assert "Redistribution and use" in script.with_suffix(".LICENSE.txt").read_text("utf-8")
