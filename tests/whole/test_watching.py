"""What is shipped for watching a relay asks for metrics that a relay really has, judged by Prometheus' own programs."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.journeys import Journey, journey
from tests.whole.processes import ROOT, free_port

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
README = (DEPLOY / "README.md").read_text("utf-8")
NAME = re.compile(r"\b(?:relay|process)_[a-z_]+\b")
SELECTOR = re.compile(r"\b(?:(?:relay|process)_[a-z_]+(?:\{[^}]*\})?|up\{[^}]*\})")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)"),
]


def promtool(*arguments: str, said: str | None = None) -> str:
    done = subprocess.run(["promtool", *arguments], input=said, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load(RULES.read_text("utf-8"))
    return [rule for group in rules["groups"] for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str]]:
    """Title and expression of everything that the dashboard draws, with Grafana's variable filled in."""
    board = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text("utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


@asynccontextmanager
async def watched(folder: Path, port: int) -> AsyncGenerator[Journey]:
    """A relay that has run a few jobs, delivered, and shows its metrics at `port`."""
    async with journey(folder, metrics_port=port) as here:
        await here.subscribe()
        for _ in range(3):
            await here.ended((await here.submit())["id"])
        await here.subscriber.wait_for(3)
        yield here


@pytest.fixture(scope="module")
async def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    async with watched(tmp_path_factory.mktemp("relay"), free_port()) as here:
        return (await here.client.get("/metrics")).text


def families(text: str) -> set[str]:
    """The names as they are asked for: those of counters with `_total`."""
    found = text_string_to_metric_families(text)
    return {family.name + "_total" * (family.type == "counter") for family in found}


async def test_promtool_has_nothing_to_say_about_the_metrics(text: str) -> None:
    assert promtool("check", "metrics", said=text) == ""


async def test_every_metric_is_in_the_readme_and_no_other(text: str) -> None:
    section = README.partition("## Watching it")[2].partition("\n## ")[0]

    assert set(re.findall(r"`((?:relay|process)_[a-z_]+)`", section)) == families(text)


async def test_every_name_that_alerts_and_panels_ask_for_exists(text: str) -> None:
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for _, expr in panels() for name in NAME.findall(expr)}
    names |= {re.sub(r"_bucket$", "", name) for rule in alerts() for name in NAME.findall(rule["expr"])}

    assert names <= families(text)
    assert len(names) > 25


async def test_the_alerts_are_well_formed_and_say_what_to_do() -> None:
    promtool("check", "rules", str(RULES))
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))
    for rule in alerts():
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


async def test_every_alert_fires_on_what_it_is_about_and_none_when_all_is_well() -> None:
    cases = RULES.with_name("alerts.test.yml")
    promtool("test", "rules", str(cases))
    tested = {case["name"] for case in yaml.safe_load(cases.read_text("utf-8"))["tests"]}

    assert tested == {rule["alert"] for rule in alerts()} | {"all is well"}


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")
async def test_every_panel_shows_something_of_a_relay_that_runs(tmp_path: Path) -> None:
    port, own = free_port(), free_port()
    config = tmp_path / "prometheus.yml"
    shipped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    shipped["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    shipped["rule_files"] = [str(RULES)]
    shipped["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    config.write_text(json.dumps(shipped))
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    async with watched(tmp_path, port) as here:
        process = await asyncio.create_subprocess_exec(
            *command,
            f"--web.listen-address=127.0.0.1:{own}",
            "--log.level=error",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{own}", trust_env=False) as client:
                await until_scraped(client)
                asked = [expr for _, expr in panels()] + [
                    series for rule in alerts() for series in SELECTOR.findall(rule["expr"])
                ]
                # Rates are told by what happens between two scrapes.
                while empty := [expr for expr in asked if not await found(client, expr)]:
                    assert len(here.vendor.state(here.node.clock.now_ms())["tasks"]) < 100, empty
                    await here.ended((await here.submit())["id"])
        finally:
            process.terminate()
            await process.wait()


async def found(client: httpx2.AsyncClient, expr: str) -> list[dict[str, Any]]:
    said = await client.get("/api/v1/query", params={"query": expr})
    if said.status_code == 503:  # it has just been started
        said.raise_for_status()
    answer = said.json()
    assert answer["status"] == "success", (expr, answer)
    # A quantile of nothing that happened is no number, and drawn as nothing.
    result: list[dict[str, Any]] = [one for one in answer["data"]["result"] if one["value"][1] != "NaN"]
    return result


async def until_scraped(client: httpx2.AsyncClient) -> None:
    """Until Prometheus is up and has seen the relay."""
    async with asyncio.timeout(30):
        while True:
            try:
                if await found(client, "up{job='relay'} == 1"):
                    return
            except httpx2.HTTPError:
                pass
            await asyncio.sleep(0.1)  # another program's doing, which nothing tells of
