"""A relay in the middle of its day, for pictures and journeys: jobs of every state, two accounts, two subscribers."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from relay.sandbox.shapes import Account
from relay.sandbox.vendor import Vendor
from tests.journeys import Journey, journey

PROMPTS = (
    "A lighthouse in a storm at dusk, waves breaking over the rocks, slow dolly in, 35 mm film grain",
    "Paper boats drift down a rain-filled gutter, macro, shallow depth of field",
    "An astronaut waters a single sunflower on Mars, warm backlight, dust in the air",
    "Night market in Taipei, neon reflections on wet asphalt, handheld, people passing",
    "A fox crosses fresh snow between birches, early morning fog, long lens",
    "Time-lapse of a cathedral being built out of matchsticks, top-down",
    "An old tram climbs a steep Lisbon street, golden hour, laundry moving in the wind",
)
WAITING = (
    "Origami cranes take off from a wooden table and become real birds, one continuous shot",
    "A diver descends into a flooded library, shafts of light between the shelves",
    "Macro of ink dropped into water, deep blue and gold, black background",
    "A cinematic aerial shot of a coastal city at golden hour",
)
RENDER_S = (25, 40, 15, 1_000)
MODELS: tuple[dict[str, Any], ...] = (
    {"model": "gen4.5", "duration": 5, "aspect_ratio": "16:9"},
    {"model": "veo-3.1", "duration": 8, "aspect_ratio": "16:9", "resolution": "1080p"},
    {"model": "kling-3.0-pro", "duration": 10, "aspect_ratio": "16:9"},
)


@asynccontextmanager
async def scene(folder: Path) -> AsyncGenerator[Journey]:
    """Seven jobs have ended, one of them badly; three run, and one waits. One subscriber is well, one is not."""
    accounts = [Account("studio@example.com", 2), Account("nights@example.com", 1)]
    chance = Random(7)  # noqa: S311 # chance, not a secret
    vendor = Vendor(chance, accounts=accounts, times_s=(0.05, 0.3))
    kept = f"file://{folder / 'kept'}"
    async with journey(folder, vendor=vendor, artifacts=kept, artifacts_before_final=True) as here:
        await here.subscribe(description="Shop backend", types=["job.succeeded", "job.failed"])
        await here.subscribe(description="Old wiki", url=here.subscriber.url.replace("/hook", "/gone-for-long"))
        for number, prompt in enumerate(PROMPTS):
            if number == 3:
                vendor.faults.replace({"fails": {"value": "safety", "times": 1}})
            wish = MODELS[number % 3] | {"text_prompt": prompt, "replyRef": f"order-{4181 + number}"}
            await here.ended((await here.submit(**wish))["id"])
        for number, prompt in enumerate(WAITING):
            vendor._times_s = (0.05, RENDER_S[number])
            wish = MODELS[number % 3] | {"text_prompt": prompt, "replyRef": f"order-{4190 + number}"}
            job = await here.submit(**wish)
            # How long a task takes is settled when the upstream takes it; the last one waits for a slot.
            await here.job_in(job["id"], "running" if number < 3 else "queued")
        await here.until(lambda: here.get("/v1/jobs?state=running"), lambda page: _moves(page["data"]))
        yield here


def _moves(jobs: list[dict[str, Any]]) -> bool:
    return len(jobs) == 3 and all(job["progress"] >= 0.1 for job in jobs)


async def job_of(here: Journey, state: str) -> dict[str, Any]:
    """The newest job in this state, once there is one."""

    async def look() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await here.get(f"/v1/jobs?state={state}"))["data"]
        return found

    return (await here.until(look, bool))[0]
