"""The film that every sandbox task yields: one short real MP4, made distinct for each task, and a preview picture.

film.mp4 was made once by: ffmpeg -f lavfi -i testsrc2=size=320x180:rate=12:duration=5 -c:v libx264 -profile:v baseline
-level 3.0 -pix_fmt yuv420p -preset veryslow -crf 38 -movflags +faststart -map_metadata -1 -fflags +bitexact film.mp4
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Final

WIDTH: Final = 320
HEIGHT: Final = 180
DURATION_S: Final = 5
FRAME_RATE: Final = 12
CHUNK_BYTES: Final = 64 * 1024

PREVIEW_WIDTH: Final = 160
PREVIEW_HEIGHT: Final = 90


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
    """A small PNG: a gradient whose colours come from the task's id."""
    red, green, blue = hashlib.sha256(task_id.encode()).digest()[:3]
    row = bytearray(1)  # filter type: none
    for x in range(PREVIEW_WIDTH):
        shade = x / PREVIEW_WIDTH
        row += bytes((int(red * (1 - shade)), int(green * shade), int(blue * (0.5 + shade / 2))))
    header = struct.pack(">IIBBBBB", PREVIEW_WIDTH, PREVIEW_HEIGHT, 8, 2, 0, 0, 0)
    body = zlib.compress(row * PREVIEW_HEIGHT)
    return b"\x89PNG\r\n\x1a\n" + _png(b"IHDR", header) + _png(b"IDAT", body) + _png(b"IEND", b"")


def _png(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
