"""Runs a relay in this process, uploads 100 MB through it from another one, and prints how much its memory rose."""

import asyncio
import json
import resource
import sys

from relay import observe, settings
from relay.node import Node
from relay.serve import bound, hosted

SIZE_BYTES = 100_000_000
WARM_UP_BYTES = 1_000_000
UPLOAD = """
import http.client, sys
port, size, token = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def pieces():
    yield b"\\x89PNG\\r\\n\\x1a\\n" + bytes(65528)
    for _ in range(size // 65536 - 1):
        yield bytes(65536)
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
length = str(size // 65536 * 65536)
headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png", "Content-Length": length}
connection.request("POST", "/v1/runwayml/assets/?name=large.png", body=pieces(), headers=headers)
print(connection.getresponse().status)
"""


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def upload(port: int, size: int, token: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", UPLOAD, str(port), str(size), token, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return int(out)


async def main() -> None:
    observe.configure()
    chosen = settings.load()
    node = Node(chosen)
    listening = bound("127.0.0.1", 0)
    port, token = listening.getsockname()[1], chosen.admin_token.get_secret_value()
    async with hosted(node.app, listening, drain=node.drain):
        await upload(port, WARM_UP_BYTES, token)
        before = peak_bytes()
        status = await upload(port, SIZE_BYTES, token)
        risen = peak_bytes() - before
    print(json.dumps({"status": status, "risen_bytes": risen}))


if __name__ == "__main__":
    asyncio.run(main())
