"""What a file is, by its first bytes, which part of it a reader asks for, and of which version its host speaks."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

SNIFF_BYTES: Final = 512
# A date may name a version only if nothing can have changed since, within the second that it tells (RFC 9110, 8.8.2.2).
STRONG_DATE_S: Final = 60
_DATE: Final = re.compile(r"[\x20-\x7e]{1,40}")
_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]{1,200}"')
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)")
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
# With one of them a QuickTime file begins that is older than `ftyp`.
_ATOMS: Final = (b"moov", b"mdat", b"wide")
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
    if first[4:8] in _ATOMS:
        return _BRANDS[b"qt  "]
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


def version_of(headers: Mapping[str, str]) -> str:
    """What names exactly these bytes at their host, for `If-Range`: a strong ETag or date; empty where neither is."""
    if etag := headers.get("etag"):
        return etag if _ETAG.fullmatch(etag) else ""
    changed = headers.get("last-modified", "")
    try:
        age = parsedate_to_datetime(headers["date"]) - parsedate_to_datetime(changed)
    except (KeyError, ValueError, TypeError, OverflowError):  # TypeError: only one of the two has a zone
        return ""
    return changed if age.total_seconds() >= STRONG_DATE_S and _DATE.fullmatch(changed) else ""


def goes_on(headers: Mapping[str, str], at: int, version: str) -> bool:
    """Whether a 206 brings the bytes of this version from `at` on; one that names no version may be of another."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    return match is not None and int(match[1]) == at and bool(version) and version_of(headers) == version


def size_of(headers: Mapping[str, str]) -> int | None:
    """How large the whole file is, by the head of an answer that brings all or the rest of it."""
    if match := _CONTENT_RANGE.fullmatch(headers.get("content-range", "")):
        return None if match[2] == "*" else int(match[2])
    length = headers.get("content-length", "")
    return int(length) if re.fullmatch(r"\d{1,18}", length) else None
