"""Requests to the callback door that no decent sender would send: bodies, encodings, framings, addresses."""

from dataclasses import dataclass, field
from typing import Final

from hypothesis import strategies as st

# Replaced by what belongs to a running job, once there is one.
TASK, REF, TOKEN, URL = "@TASK@", "@REF@", "@TOKEN@", "@URL@"
NOBODYS: Final = "user:7-runwayml:a@x.com-task:0f0e0d0c-0b0a-4908-8706-050403020100"
MIB: Final = 1024 * 1024

ODD: Final = (
    ["null", "true", "{}", "[]", "-0", "0.5", '""', '"text"', "1e999", "-1e999", "1e-999", "1e300", "NaN", "-Infinity"]
    + [
        "9" * 400,
        "9" * 5_000,
        "01",
        "+1",
        '"\\u0000"',
        '"a\x00b"',
        '"\\ud800"',
        '"\\udfff\\ud83d"',
        '"\\x"',
        '"\ud800"',
    ]
    + ["[" * depth + "]" * depth for depth in (62, 63, 64, 65, 900, 100_000)]
    + ['{"a":' * depth + "1" + "}" * depth for depth in (63, 64, 2_000)]
)
ALMOST: Final = {
    "status": ["RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "CANCELED", "THROTTLED", "succeeded", "SURPRISE", ""],
    "taskId": [TASK, NOBODYS, "user:1-runwayml:../x-task:1"],
    "replyRef": [REF, "somebody-else"],
    "replyUrl": [URL, TOKEN, "https://example.com/hook"],
    "progressRatio": ["0.5", "1", "-1", "0,5"],
    "updatedAt": ["2026-01-01T00:00:00.000Z", "2026-01-01", "9999-12-31T23:59:59-23:59", "9999-99-99T99:99:99Z"],
    "error": ["no", "SAFETY.X"],
    "surprise": ["x"],
}
WHOLE: Final = {
    "artifacts": ['[{"url":"https://evil.example/x.mp4"}]', '[1,null,{"url":"http://["}]', "[[[]]]"],
    "error": ['{"reason":"SAFETY.X","errorMessage":"no"}', '{"reason":[],"errorMessage":{}}'],
    "progressRatio": ["0.5", "1", "7", "-1"],
    "estimatedTimeToStartSeconds": ["12", '"12"', "-1"],
}
PAIRS: Final = [(key, f'"{text}"') for key, texts in ALMOST.items() for text in texts] + [
    (key, text) for key, texts in WHOLE.items() for text in texts
]
CHARSETS: Final = (
    ["utf-8"] * 6
    + ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1"]
    + ["utf-7", "cp037"]
)

pairs = st.one_of(
    st.sampled_from(PAIRS),
    st.sampled_from(PAIRS),
    st.tuples(st.sampled_from([key for key, _ in PAIRS]), st.sampled_from(ODD)),
    st.tuples(st.text(st.characters(blacklist_characters='"\\'), max_size=4), st.sampled_from(ODD)),
)
# What a forger begins with, and what the upstream itself would send.
RIGHT: Final[list[list[str]]] = [
    [f'"taskId":"{TASK}","status":"SUCCEEDED","artifacts":[{{"url":"https://evil.example/x.mp4"}}]'],
    [f'"task":{{"taskId":"{TASK}","status":"FAILED","error":{{"reason":"SAFETY.X"}}}},"replyRef":"{REF}"'],
    [f'"replyRef":"{REF}","replyUrl":"{URL}","status":"RUNNING","progressRatio":"0.5"'],
    [f'"replyUrl":"{URL}","status":"CANCELLED","progressRatio":1,"note":"{TOKEN}"'],
    ['"status":"SUCCEEDED","artifacts":[]'],
    [f'"taskId":"{NOBODYS}","status":"SUCCEEDED","artifacts":[]'],
    [],
]
# Lists of pairs: the same key may stand there twice. The number makes bodies differ, so that few are duplicates.
flat = st.builds(
    lambda right, number, some: "{" + ",".join([*right, f'"n":{number}', *some]) + "}",
    st.sampled_from(RIGHT),
    st.integers(0, 10**9),
    st.lists(pairs.map(lambda pair: f'"{pair[0]}":{pair[1]}'), max_size=3),
)
tasks = st.one_of(
    flat,
    flat,
    st.tuples(flat, flat).map(lambda two: '{"task":' + two[0] + "," + two[1][1:]),
    st.sampled_from(('{"task":%s}', '{"tasks":[%s]}', "[%s]", '{"status":"RUNNING","artifacts":%s}', "%s")).flatmap(
        lambda around: flat.map(lambda inside: around.replace("%s", inside))
    ),
)


@dataclass(frozen=True)
class Body:
    """Text in a charset, with bytes before and behind it, cut and padded; plain bytes without a charset."""

    text: str
    charset: str = "utf-8"
    before: bytes = b""
    behind: bytes = b""
    cut_bytes: int = 0
    pad_bytes: int = 0

    def encoded(self, own: dict[str, str]) -> bytes:
        text = self.text
        for name, value in own.items():
            text = text.replace(name, value)
        errors = "surrogatepass" if self.charset.startswith(("utf-8", "utf-16", "utf-32")) else "replace"
        whole = self.before + text.encode(self.charset, errors) + self.behind
        return whole[: max(0, len(whole) - self.cut_bytes)] + b" " * self.pad_bytes


NO_BYTES: Final = st.just(b"")
bodies = st.one_of(
    st.binary(max_size=200).map(lambda data: Body("", before=data)),
    st.builds(Body, st.sampled_from(ODD)),
    st.builds(Body, tasks),
    st.builds(
        Body,
        tasks,
        st.sampled_from(CHARSETS),
        st.one_of(NO_BYTES, NO_BYTES, st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b" ", b"\xff"])),
        st.one_of(NO_BYTES, NO_BYTES, st.binary(max_size=5), st.just(b"{}")),
        st.sampled_from([0, 0, 0, 1, 2, 5, 40]),
        st.sampled_from([0] * 40 + [70_000, MIB - 100, MIB + 1]),
    ),
)

TEXT_OF_A_HEADER: Final = st.binary(max_size=300).map(
    lambda data: bytes(byte for byte in data if byte >= 32 and byte != 127).strip()
)
HEADERS: Final = st.lists(
    st.one_of(
        st.tuples(
            st.just(b"Content-Type"),
            st.one_of(
                TEXT_OF_A_HEADER,
                st.sampled_from([b"application/json", b"text/plain; charset=klingon", b"x" * 5_000, b""]),
            ),
        ),
        st.sampled_from(
            [
                (b"Content-Encoding", b"gzip"),
                (b"Expect", b"100-continue"),
                (b"Upgrade", b"h2c"),
                (b"X-Http-Method-Override", b"DELETE"),
                (b"Authorization", b"Basic \xff"),
                (b"Cookie", b"a=b"),
                (b"Content-Range", b"bytes 0-1/2"),
            ]
        ),
        st.tuples(st.just(b"X-Odd"), TEXT_OF_A_HEADER),
    ),
    max_size=4,
)
METHODS: Final = ["POST"] * 20 + ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "BREW", "post"]
FRAMINGS: Final = ["length"] * 6 + ["chunked"] * 4 + ["short", "long", "cut", "both", "two", "none", "bad chunk"]
DOORS: Final = (
    ["job"] * 4
    + ["inbox"] * 2
    + ["unknown", "unknown", "no inbox", "encoded", "query", "slash", "twice", "whole address", "capitals"]
)


@dataclass(frozen=True)
class Shot:
    """One request. `door` says which address, `framing` how the body is delimited."""

    body: Body
    door: str = "job"
    framing: str = "length"
    method: str = "POST"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    stray: str = "x" * 22

    @property
    def path(self) -> str:
        """With `{token}` and `{inbox}` for what only the test knows."""
        return {
            "inbox": "/callbacks/inbox/{inbox}",
            "unknown": f"/callbacks/{self.stray}",
            "no inbox": f"/callbacks/inbox/{self.stray}",
            "encoded": "/%63allbacks/{token}",
            "query": "/callbacks/{token}?task=1&token=%00",
            "slash": "/callbacks/{token}/",
            "twice": "//callbacks/{token}",
            "whole address": "http://relay/callbacks/{token}",
            "capitals": "/CALLBACKS/{token}",
        }.get(self.door, "/callbacks/{token}")

    @property
    def hangs_up(self) -> bool:
        """Whether the sender leaves while the relay still waits for more of the body."""
        return self.framing in ("long", "cut")

    def carried(self, body: bytes) -> bytes | None:
        """The bytes that the relay has to keep; None where what is sent is no whole HTTP request."""
        if self.framing == "none":
            return b""
        if self.framing == "short":
            return body[: len(body) // 2]
        return body if self.framing in ("length", "chunked") else None

    def expected(self, carried: bytes | None) -> set[int | None]:
        """The statuses that may answer it, None for no answer at all."""
        if self.method in ("BREW", "post"):
            return {400}
        if carried is None or self.framing in ("short", "none"):
            return {200, 400, 404, 405, 408, 413, 429, None}
        if self.door in ("slash", "twice", "capitals"):
            return {404}
        if self.method != "POST":
            return {404, 405}
        if len(carried) > MIB:
            return {413}
        if self.door in ("unknown", "no inbox"):
            return {404}
        return {200, 404, 429} if self.door == "whole address" else {200, 429}

    def raw(self, path: str, body: bytes) -> bytes:
        """Everything that goes over the wire."""
        lines = [f"{self.method} {path} HTTP/1.1".encode(), b"Host: relay", b"Connection: close"]
        lines += [name + b": " + value for name, value in self.headers]
        length = {"short": len(body) // 2, "long": len(body) + 7}.get(self.framing, len(body))
        chunked = self.framing in ("chunked", "cut", "both", "bad chunk")
        lines += [b"Transfer-Encoding: chunked"] if chunked else []
        lines += [] if self.framing in ("chunked", "cut", "bad chunk", "none") else [b"Content-Length: %d" % length]
        lines += [b"Content-Length: %d" % (length + 1)] if self.framing == "two" else []
        return b"\r\n".join([*lines, b"", b""]) + (self._in_chunks(body) if chunked else body)

    def _in_chunks(self, body: bytes) -> bytes:
        made, rest = b"", body
        for n, size in enumerate(self.chunks):
            piece, rest = rest[:size], rest[size:]
            if piece:
                made += b"%03x%s\r\n%s\r\n" % (len(piece), (b"", b";a=b", b';c="d"')[n % 3], piece)
        made += b"%X\r\n%s\r\n" % (len(rest), rest) if rest else b""
        end = {"cut": b"", "bad chunk": b"zz\r\n"}.get(self.framing, b"0\r\n" + b"X-Trailer: 1\r\n" * (len(body) % 2))
        return made + end + (b"" if self.framing == "cut" else b"\r\n")


STRAYS: Final = st.one_of(
    st.text("abcDEF0123456789-_", min_size=1, max_size=60),
    st.sampled_from(["%00", "%FF%FE", "%2E%2E", "%2F", "x" * 6_000, "inbox", ";", "@", "%"]),
)
CHUNKS: Final = st.lists(st.sampled_from([1, 2, 3, 7, 4_096, 65_537]), max_size=6)
shots = st.one_of(
    # Strange bodies in decent requests, in strange but whole ones, and in all sorts.
    st.builds(Shot, bodies),
    st.builds(Shot, bodies, st.sampled_from(["job", "inbox", "encoded", "query"])),
    st.builds(Shot, bodies, st.sampled_from(["job", "inbox"]), st.just("chunked"), headers=HEADERS, chunks=CHUNKS),
    st.builds(
        Shot,
        bodies,
        st.sampled_from(DOORS),
        st.sampled_from(FRAMINGS),
        st.sampled_from(METHODS),
        headers=HEADERS,
        chunks=CHUNKS,
        stray=STRAYS,
    ),
)
