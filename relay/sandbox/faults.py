"""The sandbox's faults: every way in which the upstream is known to misbehave, as a named switch.

`PUT /sandbox/faults` takes a JSON object, name → value, and replaces what was set before:

    {"callbacks_dropped": 0.5}                       a plain value
    {"html_errors": true}                            a flag (false or null: off)
    {"create_lost": {"value": "522", "times": 1}}    acts once, then it is off again
    {"lists_lag": {"value": 20, "real": true}}       seconds of the wall clock

and `--fault` takes the same as text: `NAME`, `NAME=VALUE`, then perhaps `*TIMES`, then perhaps `!` for `real`:
`callbacks_dropped=0.5`, `create_lost=522*1`, `lists_lag=20s!`. Hyphens in names are read as underscores. A switch with
neither value nor default is an error, as are unknown names, values outside the switch's kind, and `times` where a
switch does not count.

Kinds: `flag` true or false; `chance` 0…1; `seconds` a number or text such as `5s`, `10m`, `2h`; `choice` one of the
words listed; `text`; `bytes` a whole number. Like all times of the sandbox, seconds are divided by its `speed`, unless
`real` is set. `times` counts requests, tasks created or callbacks, as the switch says.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from relay.errors import InvalidRequest, Problem

Kind = Literal["flag", "chance", "seconds", "choice", "text", "bytes"]
Counts = Literal["requests", "tasks", "callbacks", "nothing"]

TEXT_MAX: Final = 1024
SECONDS_MAX: Final = 30 * 86_400
BYTES_MAX: Final = 1 << 31
TIMES_MAX: Final = 1_000_000
UNIT_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

# How an answer is lost or replaced: an HTTP status with the text that a proxy in front of the upstream sends, an HTML
# page, a connection that is closed without an answer, or silence until the caller gives up.
WAYS: Final = "522 500 502 503 504 408 html cut hang"


@dataclass(frozen=True, slots=True)
class Switch:
    """One fault that can be set; `default` is the value of a switch that is named without one (None: needed).

    `choices`: the words of a `choice`, with spaces between them.
    """

    name: str
    kind: Kind
    counts: Counts
    sentence: str
    default: Any = True
    choices: str = ""


SWITCHES: Final = (
    # Creating.
    Switch("create_body", "choice", "nothing", "the create answer's shape", "flat", "nested flat both"),
    Switch("create_fails", "choice", "requests", "creates get this answer and no task is made", "522", WAYS),
    Switch("create_lost", "choice", "requests", "the task is made, and its answer is lost in this way", "522", WAYS),
    Switch("create_slow", "seconds", "requests", "the task is made at once, its answer comes so much later", None),
    Switch("appears_after", "seconds", "tasks", "a created task starts, and can be seen, only so much later", None),
    Switch("refused", "flag", "requests", "creates get a 400"),
    Switch("moderated", "flag", "requests", "creates get a 422"),
    Switch("no_credits", "choice", "requests", "creates get this status; 412 has no code", "412", "412 402"),
    Switch("no_credits_for", "text", "requests", "creates on this account (an e-mail) get a 412", None),
    Switch("busy", "flag", "requests", "creates get the API's own 429, with runningTasks"),
    Switch("provider_limit", "flag", "requests", "creates get the provider's 429, without runningTasks or code"),
    Switch("capacity_changes", "seconds", "nothing", "the provider runs 1 to 3 tasks, drawn anew at this interval", 60),
    Switch("unchecked", "flag", "nothing", "creates may name any model and any fields"),
    Switch("assets_unchecked", "flag", "nothing", "assets that were never uploaded are accepted"),
    # How a task goes.
    Switch("fails", "choice", "tasks", "tasks FAIL for this reason", "bad-output", "safety bad-output empty other"),
    Switch("cancelled", "choice", "tasks", "tasks end in this status", "CANCELLED", "CANCELLED CANCELED"),
    Switch("throttled", "seconds", "tasks", "tasks are THROTTLED for so long before they run", 600),
    Switch("odd_status", "text", "tasks", "tasks report this status in the place of RUNNING", "QUEUED"),
    Switch("never_ends", "flag", "tasks", "tasks stop at 90 % and keep their slot"),
    # What a task looks like.
    Switch("progress", "choice", "nothing", "the form of progressRatio", "number", "string number null empty"),
    Switch("metadata", "choice", "nothing", "the form of an artifact's metadata", "flat", "nested flat null"),
    Switch("no_artifacts_at_first", "seconds", "nothing", "SUCCEEDED has no artifacts for so long", None),
    Switch("no_url_at_first", "seconds", "nothing", "SUCCEEDED has artifacts without a url for so long", None),
    Switch("links_expire", "seconds", "nothing", "artifact links answer 403 after so long, not after 24 h", 60),
    Switch("links_fail", "choice", "requests", "artifact links get this answer", "403", "403 404 500 cut hang"),
    Switch("artifact_bytes", "bytes", "nothing", "films are padded to this size", None),
    # Asking.
    Switch("get_body", "choice", "nothing", "the shape of GET tasks/{taskId}", "nested", "nested flat both"),
    Switch("get_fails", "choice", "requests", "GET tasks/{taskId} gets this answer", "429", WAYS + " 429"),
    Switch("get_slow", "seconds", "requests", "GET tasks/{taskId} is answered so much later", None),
    Switch("get_running_after_final", "seconds", "nothing", "GET says RUNNING for so long after the end", None),
    Switch("not_found_after_create", "seconds", "nothing", "GET says 404 for so long after create", None),
    Switch("lists_fail", "choice", "requests", "task list and scheduler get this answer", "429", WAYS + " 429"),
    Switch("lists_lag", "seconds", "nothing", "task list and scheduler show what was true so long ago", None),
    Switch("lists_without_refs", "flag", "nothing", "task list and scheduler leave out replyRef and replyUrl"),
    Switch("list_body", "choice", "nothing", "the shape of lists of tasks and assets", "object", "array object"),
    Switch("email_required", "flag", "nothing", "task lists need `email` even with one account"),
    Switch("encoded_ids_accepted", "flag", "nothing", "percent-encoded ids in paths are understood"),
    Switch("accounts_fail", "choice", "requests", "accounts and features get this answer", "522", WAYS),
    Switch("account_broken", "text", "nothing", "this account (an e-mail) has an `error` and takes no tasks", None),
    Switch("unauthorized", "flag", "requests", "every token is refused with a 401"),
    Switch("html_errors", "flag", "requests", "errors are HTML pages"),
    # Calling back.
    Switch("callbacks", "choice", "nothing", "which callbacks there are", "final", "progress final none"),
    Switch("callback_body", "choice", "nothing", "the callback's shape", "nested", "flat nested"),
    Switch("callback_content_type", "text", "callbacks", "the callback's Content-Type", "text/plain"),
    Switch("callbacks_without", "choice", "callbacks", "callbacks leave this out", "ids", "replyRef taskId ids"),
    Switch("callbacks_dropped", "chance", "callbacks", "callbacks are never sent", 1.0),
    Switch("callbacks_doubled", "chance", "callbacks", "callbacks are sent twice", 1.0),
    Switch("callbacks_reordered", "flag", "nothing", "of two callbacks the later one comes first; the final one too"),
    Switch("callbacks_late", "seconds", "callbacks", "callbacks come so much later", None),
    Switch("final_late", "seconds", "callbacks", "the final callback comes so much later", None),
    Switch("callbacks_before_answer", "flag", "tasks", "the first callback arrives before the create answer"),
    Switch("callbacks_stray", "chance", "callbacks", "behind it comes one of a task that nobody submitted", 1.0),
    Switch("default_reply_url", "text", "nothing", "stands in for a missing replyUrl (a setting of the account)", None),
)
BY_NAME: Final = {switch.name: switch for switch in SWITCHES}

_TEXT: Final = re.compile(r"(?P<name>[A-Za-z0-9_-]+)(?:=(?P<value>.*?))?(?:\*(?P<times>\d{1,7}))?(?P<real>!)?")
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhd]?)")


def _seconds(value: Any) -> Any:
    parts = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(parts[1]) * UNIT_S[parts[2]] if parts else value


# What the value of a switch of a kind must be, as a type and in words; a choice must be one of its words.
_KINDS: Final[Mapping[Kind, tuple[TypeAdapter[Any], str]]] = {
    "flag": (TypeAdapter(Literal[True]), "true or false"),
    "chance": (TypeAdapter(Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]), "a number from 0 to 1"),
    "seconds": (
        TypeAdapter(Annotated[float, Field(ge=0, le=SECONDS_MAX, allow_inf_nan=False), BeforeValidator(_seconds)]),
        "seconds, as a number or as 5s, 10m, 2h",
    ),
    "text": (
        TypeAdapter(Annotated[str, Field(max_length=TEXT_MAX, pattern=r"^\P{C}+$")]),
        f"a text of 1 to {TEXT_MAX} printable characters",
    ),
    "bytes": (TypeAdapter(Annotated[int, Field(ge=1, le=BYTES_MAX)]), f"a whole number from 1 to {BYTES_MAX}"),
}


@dataclass(slots=True)
class Fault:
    """A switch that is on: its checked value (seconds as a float), and how often it still acts (None: for ever)."""

    switch: Switch
    value: Any
    times: int | None = None
    real: bool = False

    def as_json(self) -> Any:
        more = ({} if self.times is None else {"times": self.times}) | ({"real": True} if self.real else {})
        return {"value": self.value, **more} if more else self.value


class Faults:
    """The faults that are on. `speed` divides their seconds. Raises InvalidRequest for what it cannot set."""

    def __init__(self, specs: Mapping[str, Any] | None = None, *, speed: float = 1.0) -> None:
        self._speed = speed
        self._on: dict[str, Fault] = {}
        self.replace(specs or {})

    def replace(self, specs: Mapping[str, Any]) -> None:
        """Switch on exactly these; with one problem nothing is changed."""
        self._on = read_faults(specs)

    def as_json(self) -> dict[str, Any]:
        return {name: fault.as_json() for name, fault in self._on.items()}

    def value(self, name: str) -> Any:
        """The value of a fault that is on, else None; nothing is used up."""
        fault = self._on.get(_known(name))
        return fault.value if fault else None

    def take(self, name: str) -> Any:
        """The value of a fault that acts now, else None; one of its times is used up."""
        fault = self._on.get(_known(name))
        if fault is None:
            return None
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                del self._on[name]
        return fault.value

    def strikes(self, name: str, rng: Random) -> bool:
        """Whether a fault of the kind `chance` acts now."""
        chance = self.value(name)
        if chance is None or rng.random() >= chance:
            return False
        self.take(name)
        return True

    def wait_ms(self, name: str) -> int:
        """A fault's seconds as milliseconds of the caller's clock; 0 when it is off. Nothing is used up."""
        fault = self._on.get(_known(name))
        if fault is None:
            return 0
        return round(float(fault.value) * 1000 / (1.0 if fault.real else self._speed))

    def take_wait_ms(self, name: str) -> int:
        """As `wait_ms`, and one of its times is used up."""
        wait_ms = self.wait_ms(name)
        self.take(name)
        return wait_ms


def _known(name: str) -> str:
    # A misspelt switch in the sandbox's own code would be a fault that never acts.
    if name not in BY_NAME:
        raise KeyError(name)
    return name


def read_faults(specs: Mapping[str, Any]) -> dict[str, Fault]:
    """Check a whole JSON object of faults; raises InvalidRequest with a problem for each wrong one."""
    found: dict[str, Fault] = {}
    problems: list[Problem] = []
    for name, spec in specs.items():
        try:
            fault = read_fault(name, spec)
        except InvalidRequest as error:
            problems.extend(error.problems)
        else:
            if fault is not None:
                found[fault.switch.name] = fault
    if problems:
        raise InvalidRequest.of(problems)
    return found


def read_fault(name: str, spec: Any) -> Fault | None:
    """One fault from its JSON form; None where it is switched off. Raises InvalidRequest."""
    switch = BY_NAME.get(name.replace("-", "_"))
    if switch is None:
        message = f"there is no fault {name!r}; known are {', '.join(BY_NAME)}"
        raise InvalidRequest.field(name, "unknown", message, given=name, allowed=list(BY_NAME))
    extra = spec if isinstance(spec, dict) else {"value": spec}
    if unknown := set(extra) - {"value", "times", "real"}:
        raise _wrong(switch, "unknown", f"has value, times and real, not {', '.join(sorted(unknown))}", spec)
    value = extra.get("value", switch.default)
    if value is None and switch.default is None:
        raise _wrong(switch, "required", f"needs a value: {_allowed(switch)}", spec)
    if value is None or value is False:
        return None
    if value is True:
        value = switch.default
    times = extra.get("times")
    if times is not None:
        if switch.counts == "nothing":
            raise _wrong(switch, "times", "acts for as long as it is set and takes no `times`", spec)
        if isinstance(times, bool) or not isinstance(times, int) or not 1 <= times <= TIMES_MAX:
            raise _wrong(switch, "times", f"takes `times` from 1 to {TIMES_MAX}", spec)
    real = extra.get("real", False)
    if not isinstance(real, bool) or (real and switch.kind != "seconds"):
        raise _wrong(switch, "real", "takes `real` (true or false) only where its value is in seconds", spec)
    return Fault(switch, _read_value(switch, value, spec), times, real)


def _read_value(switch: Switch, value: Any, spec: Any) -> Any:
    try:
        if switch.kind != "choice":
            return _KINDS[switch.kind][0].validate_python(value)
        return switch.choices.split()[switch.choices.split().index(str(value))]
    except (ValidationError, ValueError):
        rule = "one_of" if switch.choices else switch.kind
        raise _wrong(switch, rule, f"takes {_allowed(switch)}", spec) from None


def _allowed(switch: Switch) -> str:
    return "one of " + ", ".join(switch.choices.split()) if switch.choices else _KINDS[switch.kind][1]


def _wrong(switch: Switch, rule: str, what: str, given: Any) -> InvalidRequest:
    allowed = switch.choices.split() or None
    return InvalidRequest.field(switch.name, rule, f"fault {switch.name} {what}", given=given, allowed=allowed)


def parse_fault(text: str) -> tuple[str, Any]:
    """`NAME[=VALUE][*TIMES][!]` as a pair for `PUT /sandbox/faults`; raises InvalidRequest where it cannot be set."""
    parts = _TEXT.fullmatch(text.strip())
    if parts is None:
        raise InvalidRequest.field("fault", "form", f"a fault is NAME[=VALUE][*TIMES][!], not {text!r}", given=text)
    spec: dict[str, Any] = {}
    if parts["value"] is not None:
        spec["value"] = {"true": True, "false": False}.get(parts["value"].lower(), parts["value"])
    if parts["times"]:
        spec["times"] = int(parts["times"])
    if parts["real"]:
        spec["real"] = True
    fault = read_fault(parts["name"], spec)
    return parts["name"].replace("-", "_"), fault.as_json() if fault else False
