"""`GET /static/{path}`: the files that pages of the relay are made of, read once, and no other files whatever the path.

Only a file of a known kind that lies in the folder at the start is served: it is looked up by its name among those, so
that no path leads anywhere else.
"""

import asyncio
import gzip
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from relay.core.media import names
from relay.errors import NotFound

FOLDER: Final = Path(__file__).parent / "static"
# By name and not by the machine's table of types: one that is wrong there keeps a browser from running a module.
KINDS: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".webp": "image/webp",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file with its packed form, and an ETag that is the hash of what it says."""

    kind: str
    etag: str
    body: bytes
    packed: bytes


@cache
def files() -> dict[str, File]:
    """Every file that is served, by its path in the folder."""
    found = {}
    for path in FOLDER.rglob("*"):
        if path.is_file() and path.suffix in KINDS:
            body = path.read_bytes()
            etag = sha256(body).hexdigest()[:32]
            found[path.relative_to(FOLDER).as_posix()] = File(KINDS[path.suffix], etag, body, gzip.compress(body, 9))
    return found


async def serve(request: Request) -> Response:
    """200 with the file, or 304 to whoever has it already; browsers ask each time, so that an upgrade shows at once."""
    file = (await asyncio.to_thread(files)).get(request.path_params["path"])
    if file is None:
        raise NotFound("there is no such file")
    packs = "gzip" in request.headers.get("accept-encoding", "")
    headers = {
        "ETag": f'"{file.etag}{"-gzip" if packs else ""}"',
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
        # For a worker, and for a picture that is opened by itself; a page has a policy of its own.
        "Content-Security-Policy": "default-src 'none'; connect-src 'self'",
    }
    if names(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if packs:
        headers["Content-Encoding"] = "gzip"
    return Response(file.packed if packs else file.body, headers=headers | {"Content-Type": file.kind})
