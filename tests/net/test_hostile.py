"""Whatever a subscriber does with a delivery comes back as one answer, in bounded memory, and moves nobody else."""

from pathlib import Path

import pytest

from tests.net.hostile import HOSTILE, LONG_S, Hostile, meet

pytestmark = pytest.mark.anyio

PEAK_BYTES = 3_000_000


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
async def test_a_hostile_subscriber_is_one_failed_attempt_with_a_class_and_a_sentence(
    hostile: Hostile, tmp_path: Path
) -> None:
    outcome = await meet(hostile, tmp_path)
    answer = outcome.answer
    assert (answer.kind, answer.status) == (hostile.kind, hostile.status), answer.detail
    assert hostile.words in answer.detail
    assert "hook.test" in answer.detail
    assert "s3cret" not in repr(answer)
    assert answer.excerpt.startswith(hostile.excerpt)
    assert bool(answer.excerpt) == bool(hostile.excerpt)
    assert answer.took_ms < LONG_S * 1000
    # Each phase is rounded by itself, and what lies between two is nobody's.
    assert sum(answer.phases.values()) <= answer.took_ms + len(answer.phases)
    assert ("tls" in answer.phases) == bool(hostile.tls)
    assert outcome.peak_bytes < PEAK_BYTES
    assert {other.status for other in outcome.others} == {200}
    assert outcome.others_were_first or hostile.kind != "timeout"
