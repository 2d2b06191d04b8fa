"""What a relay asked of the operating system, as strace has written it down, and whether it told before it was safe."""

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# What writes, what makes durable, what changes names, and what speaks to clients.
CALLS = (
    "openat,read,recvfrom,recvmsg,readv,write,writev,sendto,sendmsg,pwrite64,pwritev,pwritev2,sendfile,ftruncate,"
    "truncate,fallocate,fsync,fdatasync,sync_file_range,unlink,unlinkat,link,linkat,rename,renameat,renameat2"
)
SYNCS = frozenset({"fsync", "fdatasync"})
READS = frozenset({"read", "recvfrom", "recvmsg", "readv"})
SENDS = frozenset({"write", "writev", "sendto", "sendmsg"})
STRING_MAX_BYTES = 1 << 20

_HEX = re.compile(rb"(?:\\x[0-9a-f]{2})+")
_LINE = re.compile(rb"(?P<pid>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\()(?P<rest>.*)", re.DOTALL)
_DONE = re.compile(rb"(?P<args>.*)\)\s+= (?P<result>-?\d+)", re.DOTALL)
_FD = re.compile(rb"\d+<(?P<path>(?:\\x[0-9a-f]{2})*)>")
_TEXT = re.compile(rb'"(?P<text>(?:\\x[0-9a-f]{2})*)"(?P<cut>\.\.\.)?')


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that succeeded; `begin` and `end` are places in the log.

    `path` is what its descriptor is open on, `texts` are its buffers and names, `numbers` the plain numbers among its
    arguments.
    """

    name: str
    path: str
    texts: tuple[bytes, ...]
    numbers: tuple[int, ...]
    flags: str
    result: int
    begin: int
    end: int

    @property
    def data(self) -> bytes:
        return b"".join(self.texts)


def command(log: Path) -> tuple[str, ...]:
    """What to put in front of a program to have its calls written to `log`."""
    found = shutil.which("strace")
    assert found is not None
    strings = ("-xx", "-s", str(STRING_MAX_BYTES))
    return (found, "-f", "--seccomp-bpf", "-y", *strings, "-qq", "-o", str(log), "-e", f"trace={CALLS}", "--")


def calls(log: Path, folder: Path) -> list[Call]:
    """The calls on sockets and on files below `folder`, in the order in which they ended."""
    wanted = (_hexed(str(folder)), _hexed("socket:"))
    begun: dict[bytes, tuple[bytes, bytes, int]] = {}
    found = []
    with log.open("rb") as lines:
        for place, line in enumerate(lines):
            match = _LINE.match(line)
            if match is None:
                continue
            if match["resumed"]:
                name, rest, begin = begun.pop(match["pid"])
                rest += match["rest"]
            else:
                name, rest, begin = match["name"], match["rest"], place
            before, unfinished, _ = rest.partition(b"<unfinished ...>")
            if unfinished:
                begun[match["pid"]] = name, before, begin
            elif any(text in rest for text in wanted) and (done := _DONE.match(rest)) and int(done["result"]) >= 0:
                found.append(_call(name, done, begin, place))
    return [call for call in found if call.path.startswith(("socket:", str(folder)))]


def _call(name: bytes, done: re.Match[bytes], begin: int, end: int) -> Call:
    args, result = done["args"], int(done["result"])
    texts = []
    for match in _TEXT.finditer(args):
        assert not match["cut"], "strace cut a string short"
        texts.append(_unhexed(match["text"]))
    bare = _TEXT.sub(b"", args)
    of_file = _FD.match(bare)
    numbers = tuple(int(number) for number in re.findall(rb"(?<=, )\d+\b", bare))
    # A call without a descriptor of its own is about a name.
    path = _unhexed(of_file["path"]).decode() if of_file else texts[0].decode()
    return Call(name.decode(), path, tuple(texts), numbers, bare.decode("latin-1"), result, begin, end)


def _hexed(text: str) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in text.encode())


def _unhexed(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b"\\x", b"").decode())


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx that left for a client, and the request that it answers."""

    request: bytes
    call: Call


def answers(some: Iterable[Call]) -> Iterator[Answer]:
    """Every 2xx, with what had been read on its connection since the answer before."""
    heard: dict[str, bytes] = {}
    for call in some:
        if not call.path.startswith("socket:"):
            continue
        if call.name in READS:
            heard[call.path] = heard.get(call.path, b"") + call.data
        elif call.name in SENDS and call.data.startswith(b"HTTP/1.1 "):
            request = heard.pop(call.path, b"")
            if call.data.startswith(b"HTTP/1.1 2"):
                yield Answer(request, call)


def told_too_early(some: list[Call], answer: Answer, needle: bytes) -> str | None:
    """Why this answer was not safe to give: `needle` stands in what it promises to keep. None when it was safe."""
    written = next((call for call in some if call.name == "pwrite64" and needle in call.data), None)
    if written is None or written.end > answer.call.begin:
        return "its bytes had not been written"
    for call in some:
        if call.name in SYNCS and call.path == written.path and written.end < call.begin:
            return None if call.end < answer.call.begin else "its bytes were written and not yet synced"
    return "its bytes were never synced"
