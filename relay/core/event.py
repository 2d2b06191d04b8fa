"""Events: one committed fact about a job each, and how it is written for every door.

An event is stored without addresses of artifacts (they expire); `render` puts fresh ones in at every read and at every
delivery attempt, so that all doors give the same event with the same id.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic_core import to_json

from relay.core.job import FINAL, JSON, Address, Job, event_view, iso, public_part

PROGRESS: Final = "job.progress"
FINAL_TYPES: Final = frozenset(f"job.{state}" for state in FINAL)
JOB_TYPES: Final = (
    "job.queued",
    "job.submitted",
    PROGRESS,
    "job.in_doubt",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
)
OPERATOR_TYPES: Final = (
    "job.unconfirmed",
    "account.parked",
    "account.restored",
    "account.moderated",
    "subscription.paused",
    "upstream.down",
    "upstream.up",
    "clock.skewed",
    "disk.low",
    "restore.held",
)
TYPES: Final = JOB_TYPES + OPERATOR_TYPES
# What a person asks for to try a subscription out: no event, in no log.
PING: Final = "subscription.ping"
# JSON escapes those below U+0020 itself; these can only stand inside of strings.
_LINE_ENDS: Final = [(end.encode(), b"\\u%04x" % ord(end)) for end in "\x85\u2028\u2029"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of the log. `seq` orders all events as they were committed; with `epoch` it is the id."""

    seq: int
    epoch: str
    type: str
    job_id: str | None = None
    model: str | None = None
    reply_ref: str | None = None
    token_id: str | None = None
    at_ms: int
    data: dict[str, Any] = field(metadata=JSON)

    @property
    def id(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @property
    def final(self) -> bool:
        return self.type in FINAL_TYPES


def of_job(job: Job, event_type: str, *, epoch: str, seq: int, at_ms: int) -> Event:
    """The event that says what `job` now is."""
    return Event(
        seq=seq,
        epoch=epoch,
        type=event_type,
        job_id=job.id,
        model=job.model,
        reply_ref=job.reply_ref,
        token_id=job.token_id,
        at_ms=at_ms,
        data={"job": event_view(job, _relative)},
    )


def of_operator(event_type: str, subject: str, reason: str, *, epoch: str, seq: int, at_ms: int) -> Event:
    """An event for the operator; it belongs to no job."""
    return Event(seq=seq, epoch=epoch, type=event_type, at_ms=at_ms, data={"subject": subject, "reason": reason})


def render(event: Event, address: Address) -> dict[str, Any]:
    """The event as JSON for a reader, every artifact's address made now."""
    data = event.data
    job = data.get("job")
    if job and job["artifacts"]:
        artifacts = [
            {
                **artifact,
                "url": _absolute(artifact["url"], address),
                "previewUrls": [_absolute(preview, address) for preview in artifact["previewUrls"]],
            }
            for artifact in job["artifacts"]
        ]
        data = {**data, "job": {**job, "artifacts": artifacts}}
    return {"id": event.id, "type": event.type, "timestamp": iso(event.at_ms), "data": data}


def public(event: Event) -> Event:
    """The event as a ticket shows it."""
    job = event.data.get("job")
    return replace(event, data={"job": public_part(job)} if job else {})


def encode(rendered: dict[str, Any]) -> bytes:
    """JSON in one line of UTF-8, also for readers that end a line at each of Unicode's line ends, as Python's do."""
    text = to_json(rendered)
    if not text.isascii():
        for end, escaped in _LINE_ENDS:
            text = text.replace(end, escaped)
    return text


def _relative(artifact_id: str, name: str) -> str:
    return f"{artifact_id}/{name}"


def _absolute(relative: str, address: Address) -> str:
    artifact_id, _, name = relative.partition("/")
    return address(artifact_id, name)
