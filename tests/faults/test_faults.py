"""Whatever happens to connections and relays, each reader is told all that the log has for it, once and in order."""

from pathlib import Path

import pytest

from tests.faults.launcher import DEFECTS
from tests.faults.storm import run
from tests.postgres import Cluster

pytestmark = pytest.mark.anyio

QUICK = {"skips_one", "wrong_slice", "published_early"}
# Whether a defect shows depends on the moment of a cut or a kill.
RUNS_MAX = 8
PATIENCE_S = 3.0


@pytest.mark.parametrize(("engine", "cuts"), [("sqlite", 120), ("postgres", 60)])
async def test_cut_stalled_and_killed_nothing_is_lost_doubled_or_out_of_order(
    tmp_path: Path, request: pytest.FixtureRequest, engine: str, cuts: int
) -> None:
    on: Cluster | None = request.getfixturevalue("postgres") if engine == "postgres" else None

    outcome = await run(tmp_path, cuts=cuts, seed=4, on=on)

    assert outcome.verdict.wrong == 0, outcome
    assert outcome.tally.truncated == 0, outcome
    assert outcome.tally.cuts >= cuts
    assert outcome.tally.kills + outcome.tally.terms > 0
    assert outcome.verdict.told > 0


@pytest.mark.parametrize(
    "defect", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in DEFECTS]
)
async def test_a_relay_with_a_defect_is_found_out(tmp_path: Path, defect: str) -> None:
    """The test above can fail."""
    for seed in range(RUNS_MAX):
        (folder := tmp_path / str(seed)).mkdir()
        outcome = await run(folder, cuts=50, seed=seed, defect=defect, patience_s=PATIENCE_S)
        if outcome.verdict.wrong:
            return
    raise AssertionError(f"{defect} was not noticed: {outcome}")


@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_cut_ten_thousand_times_nothing_is_lost_doubled_or_out_of_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = await run(tmp_path, cuts=10_000, seed=6)
    with capsys.disabled():
        print(f"\n{outcome}")
    assert outcome.verdict.wrong == 0
    assert outcome.tally.truncated == 0
