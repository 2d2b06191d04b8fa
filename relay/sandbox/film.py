"""The film that every sandbox task yields: one short real MP4, made distinct for each task, and a preview picture.

film.mp4 was made once, of sixty pictures like that of `preview` in which the sun rises, piped to: ffmpeg -f rawvideo
-pix_fmt rgb24 -s 320x180 -r 12 -i - -c:v libx264 -profile:v baseline -level 3.0 -pix_fmt yuv420p -preset veryslow
-crf 30 -movflags +faststart -map_metadata -1 -fflags +bitexact film.mp4
"""

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from math import isqrt
from typing import Final

WIDTH: Final = 320
HEIGHT: Final = 180
DURATION_S: Final = 5
FRAME_RATE: Final = 12
CHUNK_BYTES: Final = 64 * 1024

PREVIEW_WIDTH: Final = 160
PREVIEW_HEIGHT: Final = 90
# The sky above, the sky below, and a hill.
_SKIES: Final = tuple(
    tuple(bytes.fromhex(colour) for colour in sky.split())
    for sky in (
        "1b2a49 f2a65a 22223b", "3a1c71 ffaf7b 2b1642", "0f2027 6dd5c4 12343b", "355c7d f67280 2a2f4a",
        "8ec5fc f9e0c7 4a6b5d", "102a43 9fb3c8 1d2d3d", "f6d365 fda085 6b3f3a", "134e5e 9bd0a0 173a35",
    )
)  # fmt: skip


@cache
def _film() -> bytes:
    return files("relay.sandbox").joinpath("film.mp4").read_bytes()


class Film:
    """One task's film: the shared MP4 and behind it a `free` box, which players skip, with the task's id.

    `pad_to_bytes` makes the box larger, so that downloads of any size can be tried; padding is made as it is read.
    """

    def __init__(self, task_id: str, pad_to_bytes: int = 0) -> None:
        name = task_id.encode()
        self._start = _film()
        padding = max(0, pad_to_bytes - len(self._start) - 8 - len(name))
        self._start += struct.pack(">I4s", 8 + len(name) + padding, b"free") + name
        self.size = len(self._start) + padding
        self.etag = '"' + hashlib.sha256(name + str(self.size).encode()).hexdigest()[:32] + '"'

    def read(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`, in pieces of at most CHUNK_BYTES."""
        end = self.size if end is None else min(end, self.size)
        while start < end:
            piece = self._start[start : min(end, start + CHUNK_BYTES)] or bytes(min(CHUNK_BYTES, end - start))
            yield piece
            start += len(piece)


def preview(task_id: str) -> bytes:
    """A small PNG: a sun over two hills, whose colours and places come from the task's id."""
    colours, sun_x, sun_y, hill_x = hashlib.sha256(task_id.encode()).digest()[:4]
    above, below, hill = _SKIES[colours % len(_SKIES)]
    shapes = (  # colour, centre, and half the width of each in a row
        (b"\xff\xf1\xd6", 30 + sun_x % 100, lambda y: isqrt(max(0, 144 - (y - 30 - sun_y % 24) ** 2))),
        (bytes((under + over) // 2 for under, over in zip(below, hill, strict=True)), 20 + hill_x % 60, _hill(52)),
        (hill, 160 - hill_x % 70, _hill(62)),
    )
    rows = bytearray()
    for y in range(PREVIEW_HEIGHT):
        part = y / PREVIEW_HEIGHT
        row = (
            bytearray(int(one + (other - one) * part) for one, other in zip(above, below, strict=True)) * PREVIEW_WIDTH
        )
        for colour, centre, half in shapes:
            start, end = max(0, centre - half(y)), min(PREVIEW_WIDTH, centre + half(y))
            row[3 * start : 3 * end] = colour * (end - start)
        rows += b"\0" + row  # filter type: none
    header = struct.pack(">IIBBBBB", PREVIEW_WIDTH, PREVIEW_HEIGHT, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _png(b"IHDR", header) + _png(b"IDAT", zlib.compress(rows)) + _png(b"IEND", b"")


def _hill(top: int) -> Callable[[int], int]:
    return lambda y: isqrt(max(0, 784 * (y - top)))


def _png(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
