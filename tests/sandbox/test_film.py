"""Films are real MP4s, distinct for each task, and of any size that is asked for."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from relay.sandbox.film import Film, preview


def boxes(data: bytes) -> list[str]:
    names, at = [], 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        names.append(name.decode())
        at += size
    assert at == len(data)
    return names


def test_a_film_begins_to_play_before_it_is_there_whole() -> None:
    data = b"".join(Film("task").read())

    names = boxes(data)

    assert names[0] == "ftyp"
    assert names.index("moov") < names.index("mdat")
    assert names[-1] == "free"
    assert len(data) < 40_000


def test_films_of_different_tasks_differ() -> None:
    assert b"".join(Film("one").read()) != b"".join(Film("two").read())
    assert Film("one").etag != Film("two").etag


def test_a_padded_film_has_its_size_to_the_byte_and_is_still_a_film() -> None:
    film = Film("task", 300_000)

    data = b"".join(film.read())

    assert len(data) == film.size == 300_000
    assert boxes(data)[-1] == "free"


@pytest.mark.parametrize(("start", "end"), [(0, 10), (5, 40_000), (29_000, 200_000), (299_999, 300_000), (0, 10**9)])
def test_a_part_of_a_film_is_that_part(start: int, end: int) -> None:
    film = Film("task", 300_000)

    assert b"".join(film.read(start, end)) == b"".join(film.read())[start:end]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_films_and_previews_decode_without_a_complaint(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"".join(Film("task", 100_000).read()))
    (tmp_path / "preview.png").write_bytes(preview("task"))

    for name in ("film.mp4", "preview.png"):
        decoded = subprocess.run(
            ["ffmpeg", "-v", "warning", "-i", tmp_path / name, "-f", "null", "-"], capture_output=True, check=False
        )
        assert (decoded.returncode, decoded.stderr) == (0, b"")
