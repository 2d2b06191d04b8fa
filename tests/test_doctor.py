"""`relay doctor` looks at where files are kept and who checkpoints, and says what to do where that is not well."""

from pathlib import Path

import pytest

from relay import settings
from relay.doctor import local
from relay.doctor.finding import Finding


def examined(monkeypatch: pytest.MonkeyPatch, folder: Path, **more: str) -> dict[str, Finding]:
    """What is said of each thing, with the least of settings and these."""
    monkeypatch.chdir(folder)
    for name, value in {"UPSTREAM_TOKEN": "x", "ADMIN_TOKEN": "a" * 24, **more}.items():
        monkeypatch.setenv(f"RELAY_{name}", value)
    return {row.name: row for row in local.examine(settings.load())}


def found(monkeypatch: pytest.MonkeyPatch, folder: Path, artifacts: str) -> Finding:
    """What is said of the artifacts."""
    return examined(monkeypatch, folder, ARTIFACTS=artifacts)["artifacts"]


def test_without_storage_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = found(monkeypatch, tmp_path, "none")

    assert (one.verdict, one.remedy) == ("ok", None)
    assert "no files are kept" in one.sentence


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_with_room_that_can_be_written_is_well_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    folder = tmp_path / "kept" / "files"
    if exists:
        folder.mkdir(parents=True)
    one = found(monkeypatch, tmp_path, f"file://{folder}")

    assert (one.verdict, "GiB free" in one.sentence) == ("ok", True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert folder.exists() == exists


def test_a_folder_that_cannot_be_written_is_a_failure_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    one = found(monkeypatch, tmp_path, f"file://{tmp_path / 'file' / 'files'}")

    assert one.verdict == "failure"
    assert "cannot be written: Not a directory" in one.sentence
    assert "RELAY_ARTIFACTS" in (one.remedy or "")


@pytest.mark.parametrize(("low", "none", "verdict"), [(2**62, 0, "warning"), (2**62, 2**62, "failure")])
def test_a_folder_without_room_is_told_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: int, none: int, verdict: str
) -> None:
    monkeypatch.setattr(local, "FREE_LOW_BYTES", low)
    monkeypatch.setattr(local, "FREE_NONE_BYTES", none)
    one = found(monkeypatch, tmp_path, f"file://{tmp_path / 'files'}")

    assert one.verdict == verdict
    assert "make room" in (one.remedy or "")
    assert "jobs go on" in (one.remedy or "")


@pytest.mark.parametrize(("size_bytes", "verdict"), [(None, "ok"), (1024, "ok"), (local.LOG_LONG_BYTES + 1, "warning")])
def test_a_log_that_nobody_checkpoints_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int | None, verdict: str
) -> None:
    if size_bytes is not None:
        with (tmp_path / "relay.db-wal").open("wb") as log:
            log.truncate(size_bytes)
    one = examined(monkeypatch, tmp_path, SQLITE_CHECKPOINT="external")["log"]

    assert (one.verdict, "litestream" in (one.remedy or "")) == (verdict, verdict == "warning")
    assert f"{(size_bytes or 0) / 1024**2:.1f} MiB" in one.sentence
    assert "log" not in examined(monkeypatch, tmp_path, SQLITE_CHECKPOINT="own")


@pytest.mark.parametrize("current", [True, False])
def test_another_program_that_checkpoints_needs_a_current_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, current: bool
) -> None:
    monkeypatch.setattr(local, "is_current", lambda: current)
    one = examined(monkeypatch, tmp_path, SQLITE_CHECKPOINT="external")["sqlite"]
    alone = examined(monkeypatch, tmp_path, SQLITE_CHECKPOINT="own")["sqlite"]

    assert (one.verdict, alone.verdict) == (("ok", "ok") if current else ("failure", "warning"))
    assert current or ".[sqlite]" in (one.remedy or "")
