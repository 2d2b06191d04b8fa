"""What a file is, by its first bytes, and which part of it a reader asks for."""

import re
from typing import Final

SNIFF_BYTES: Final = 512
_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,15})\s*-\s*(\d{0,15})")

Media = tuple[str, str, str]
"""Kind, media type and extension."""

_MP4: Final = ("video", "video/mp4", ".mp4")
_BRANDS: Final[dict[bytes, Media]] = {
    b"qt  ": ("video", "video/quicktime", ".mov"),
    b"M4A ": ("audio", "audio/mp4", ".m4a"),
    b"avif": ("image", "image/avif", ".avif"),
    b"heic": ("image", "image/heic", ".heic"),
}
_BEGINNINGS: Final[tuple[tuple[bytes, Media], ...]] = (
    (b"\x1aE\xdf\xa3", ("video", "video/webm", ".webm")),
    (b"\x89PNG\r\n\x1a\n", ("image", "image/png", ".png")),
    (b"\xff\xd8\xff", ("image", "image/jpeg", ".jpg")),
    (b"GIF8", ("image", "image/gif", ".gif")),
    (b"ID3", ("audio", "audio/mpeg", ".mp3")),
    (b"OggS", ("audio", "audio/ogg", ".ogg")),
)
_RIFF: Final[dict[bytes, Media]] = {
    b"WAVE": ("audio", "audio/wav", ".wav"),
    b"WEBP": ("image", "image/webp", ".webp"),
}


def media_of(first: bytes) -> Media | None:
    """What begins with these bytes; None for what is none of the films, pictures and sounds that are known."""
    if first[4:8] == b"ftyp":
        return _BRANDS.get(first[8:12], _MP4)
    if first[:4] == b"RIFF":
        return _RIFF.get(first[8:12])
    for beginning, media in _BEGINNINGS:
        if first.startswith(beginning):
            return media
    # The frame of an MP3 without tags.
    return ("audio", "audio/mpeg", ".mp3") if first[:1] == b"\xff" and first[1:2] >= b"\xe0" else None


def is_page(first: bytes) -> bool:
    """Whether it is text of a server (HTML, XML, JSON) and no file."""
    return first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"<", b"{", b"[")


def part_of(asked: str | None, size: int) -> range | None:
    """The bytes that a `Range` header means, empty when there are none of them; None for the whole file."""
    match = _RANGE.fullmatch((asked or "").strip())
    if match is None or not (match[1] or match[2]):
        return None  # several parts at once are nobody's need: whoever asks for them gets the whole
    if not match[1]:
        return range(max(0, size - int(match[2])), size)
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    return range(int(match[1]), last + 1)


def names(etags: str | None, etag: str | None) -> bool:
    """Whether an `If-None-Match` names this file as it is; a weak tag is as good."""
    wanted = {tag.strip().removeprefix("W/") for tag in (etags or "").split(",")}
    return etag is not None and bool({"*", etag.removeprefix("W/")} & wanted)
