"""The relay keeps what it promises, seen directly and through nginx and Caddy as `deploy/` configures them."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.conformance.fronts import FRONTS, changed
from tests.conformance.seen import seen_through
from tests.conformance.suite import ALL
from tests.conformance.target import Check, Target

pytestmark = pytest.mark.anyio
WITH_TLS = tuple(name for name in FRONTS if "TLS" in name)
SEEN = ("directly", *(name for name in FRONTS if name not in WITH_TLS))
# A relay that was drained serves nobody any more, and one that has forgotten its events not what others look for.
LAST = [check for check in ALL if {"drain", "forget"} & set(check.needs)]
OTHERS = [check for check in ALL if check not in LAST]


@pytest.fixture(scope="module", params=SEEN)
async def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Target]:
    async with seen_through(request.param, tmp_path_factory.mktemp("relay")) as found:
        yield found


@pytest.mark.parametrize("check", OTHERS, ids=[check.name.replace(" ", "-") for check in OTHERS])
async def test_a_promise_is_kept(target: Target, check: Check) -> None:
    assert await check.failure(target) is None


@pytest.mark.parametrize("seen", WITH_TLS)
async def test_what_tls_could_hold_back_is_not_held_back(seen: str, tmp_path: Path) -> None:
    async with seen_through(seen, tmp_path) as target:
        for check in OTHERS:
            if any(word in check.name for word in ("live", "at once", "quiet", "minutes")):
                assert await check.failure(target) is None


@pytest.mark.parametrize("seen", SEEN)
async def test_a_relay_that_is_told_to_stop_keeps_its_promise(seen: str, tmp_path: Path) -> None:
    async with seen_through(seen, tmp_path) as target:
        for check in LAST:
            assert await check.failure(target) is None


GZIPPED = {"gzip off;": "gzip on; gzip_types *; gzip_min_length 0;"}


@pytest.mark.parametrize(
    ("name", "changes", "broken"),
    [
        ("nginx", GZIPPED, "a stream is never compressed"),
        ("nginx", {"proxy_pass_header X-Accel-Buffering;": ""}, "proxies are told not to buffer"),
        ("caddy", {"\tlog\n": "\tlog\n\tencode gzip\n"}, "a stream is never compressed"),
    ],
)
async def test_a_front_without_the_line_that_is_there_for_it_breaks_the_promise(
    name: str, changes: dict[str, str], broken: str, tmp_path: Path
) -> None:
    async with seen_through(name, tmp_path, lambda text: changed(text, changes)) as target:
        await target.ended()
        failures = [await check.failure(target) for check in ALL if check.name == broken]

    assert None not in failures
    assert len(failures) == 1
