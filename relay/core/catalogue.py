"""The catalogue: what every model takes, as data; read from TOML text, one table a model.

The text is handed in, the built-in one first; each later text adds models or replaces single keys of them.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from relay.core import catalogue_keys as kinds
from relay.core.catalogue_keys import RULE_NAMES, SECONDS_MAX, TEXT_MAX, WORKFLOWS, Key, keys_of
from relay.core.fields import (
    END_FRAME,
    FIELDS,
    IMAGE_SLOTS,
    OWN_FIELDS,
    REFUSED,
    SHOT_DURATIONS,
    SHOT_PROMPTS,
    SHOTS_MAX,
    START_FRAME,
    VIDEO_SLOTS,
)
from relay.core.span import Span
from relay.core.wording import closest, shown
from relay.errors import ConfigurationError, Problem

BUILT_IN = "catalogue.toml"
"""Name of the built-in text, a resource of the package `relay.core`."""

FILE_MAX = 1_000_000
MODELS_MAX = 500
PROBLEMS_MAX = 100

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DATED = kinds.like(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", 'a date in quotes, such as "2026-05-14"')

Need = Literal["required", "optional", "refused"]
Audio = Literal["switch", "always", "never", "refused"]
EndFrame = Literal["imageAssetId2", "endFrameAssetId", "refused"]


@dataclass(frozen=True, slots=True)
class Model:
    """What one model takes; each field but `name` is a key of its table. Where a value says that a field is not taken,
    any value of that field is refused, except one that says what the model does anyway. Lengths are Unicode code
    points, durations seconds, sides pixels.
    """

    name: str
    label: Annotated[str, kinds.text(100)]
    family: Annotated[str, kinds.text(100)]
    duration: Annotated[tuple[int, ...] | Span | None, kinds.or_refused(kinds.durations())]
    """The values offered, or the whole seconds of a span; None: refused."""
    ratios: Annotated[tuple[str, ...], kinds.words("ratios; an empty one where aspect_ratio is refused")]
    """aspect_ratio with an image; without one too where `ratios_t2v` is empty. Empty: refused."""
    prompt: Annotated[Need, kinds.one_of(*get_args(Need))]
    images: Annotated[Span, kinds.span(0, len(IMAGE_SLOTS))]
    """How many reference images; they lie in imageAssetId1 … imageAssetId<last>, the needed ones in the first."""
    explore: Annotated[bool, kinds.flag()]
    duration_follows: Annotated[str | None, kinds.or_refused(kinds.one_of("video"))] = None
    """What the length comes from where `duration` is refused."""
    duration_ignored_in: Annotated[tuple[str, ...], kinds.some_of(*WORKFLOWS)] = ()
    """Workflows in which any `duration` is let through, for the upstream ignores it."""
    ratios_t2v: Annotated[tuple[str, ...], kinds.words("ratios: those of text-to-video, where they are others")] = ()
    ratio_follows: Annotated[str | None, kinds.or_refused(kinds.one_of("image"))] = None
    resolutions: Annotated[tuple[str, ...], kinds.words("resolutions; an empty one where resolution is refused")] = ()
    resolution_default: Annotated[str | None, kinds.or_refused(kinds.word("one of the resolutions"))] = None
    sizes: Annotated[tuple[tuple[str, int, int], ...], kinds.sizes()] = ()
    """(ratio, width, height) where the ratio alone decides the size."""
    prompt_max: Annotated[int, kinds.whole(0, TEXT_MAX)] = 0
    references: Annotated[tuple[str, ...], kinds.some_of("image", "video")] = ()
    """Which of @IMG_N ("image") and @VID_N ("video") mean something in a prompt."""
    videos: Annotated[Span, kinds.span(0, len(VIDEO_SLOTS))] = field(default=Span(0, 0))
    combined_max: Annotated[int | None, kinds.or_refused(kinds.whole(1, len(IMAGE_SLOTS) + len(VIDEO_SLOTS)))] = None
    video_seconds: Annotated[Span | None, kinds.or_refused(kinds.span(0, SECONDS_MAX))] = None
    video_side_max_px: Annotated[int | None, kinds.or_refused(kinds.whole(1, 99_999))] = None
    end_frame: Annotated[EndFrame, kinds.one_of(*get_args(EndFrame))] = REFUSED
    """Where an end frame is given; "endFrameAssetId" brings startFrameAssetId with it."""
    shots: Annotated[Span | None, kinds.or_refused(kinds.span(1, SHOTS_MAX))] = None
    shot_seconds: Annotated[Span | None, kinds.or_refused(kinds.span(1, SECONDS_MAX))] = None
    shots_seconds_max: Annotated[int | None, kinds.or_refused(kinds.whole(1, SECONDS_MAX))] = None
    shot_prompt_max: Annotated[int | None, kinds.or_refused(kinds.whole(1, TEXT_MAX))] = None
    edit_images_max: Annotated[int | None, kinds.or_refused(kinds.whole(0, len(IMAGE_SLOTS)))] = None
    """Reference images beside the video that is edited; None: the model edits no videos."""
    audio: Annotated[Audio, kinds.one_of(*get_args(Audio))] = REFUSED
    """"always" and "never": sound cannot be switched. "refused": nothing is known, so no value is taken."""
    seed: Annotated[Span | None, kinds.or_refused(kinds.span(0, 2**32 - 1))] = None
    orientations: Annotated[tuple[str, ...], kinds.words("words; an empty one where it is refused")] = ()
    orientation_default: Annotated[str | None, kinds.or_refused(kinds.word("one of the orientations"))] = None
    total_s: Annotated[Span, kinds.span(1, SECONDS_MAX)] = field(default=Span(600, 600))
    """Typical time from submitting to the video, the upstream's own queue included."""
    queue_s: Annotated[Span | None, kinds.or_refused(kinds.span(0, SECONDS_MAX))] = None
    render_s: Annotated[Span | None, kinds.or_refused(kinds.span(1, SECONDS_MAX))] = None
    rules: Annotated[tuple[str, ...], kinds.some_of(*RULE_NAMES)] = ()
    """Rules that fit no key, by name; see `relay.core.workflows`."""

    @property
    def image_slots(self) -> tuple[str, ...]:
        return IMAGE_SLOTS[: self.images.last]

    @property
    def video_slots(self) -> tuple[str, ...]:
        return VIDEO_SLOTS[: self.videos.last]

    @property
    def keyframes(self) -> bool:
        """Whether startFrameAssetId and endFrameAssetId are taken."""
        return self.end_frame == END_FRAME

    @property
    def durations(self) -> tuple[int, ...]:
        """Every duration offered, the default first; empty when the field is refused."""
        return () if self.duration is None else tuple(self.duration)

    @property
    def typical_queue_s(self) -> float:
        """Typical wait at the upstream before a render begins; 0 where only the total is known."""
        return self.queue_s.middle if self.queue_s else 0.0

    @property
    def typical_render_s(self) -> float:
        """Typical time of a render; the whole time where only that is known."""
        return self.render_s.middle if self.render_s else max(1.0, self.total_s.middle - self.typical_queue_s)

    def offered_ratios(self, *, with_image: bool) -> tuple[str, ...]:
        return self.ratios if with_image or not self.ratios_t2v else self.ratios_t2v

    def fields(self) -> tuple[str, ...]:
        """Names of the fields in which the model leaves a choice, in the page's order; for forms and documents."""
        last_shot = self.shots.last if self.shots else 0
        offered = {
            "text_prompt": self.prompt != REFUSED,
            "duration": self.duration is not None,
            "aspect_ratio": bool(self.ratios),
            "resolution": bool(self.resolutions),
            "audio": self.audio == "switch",
            "seed": self.seed is not None,
            "exploreMode": self.explore,
            "characterOrientation": bool(self.orientations),
            **dict.fromkeys((START_FRAME, END_FRAME), self.keyframes),
            **dict.fromkeys((*self.image_slots, *self.video_slots, *OWN_FIELDS), True),
            **dict.fromkeys((*SHOT_PROMPTS[:last_shot], *SHOT_DURATIONS[:last_shot]), True),
        }
        return tuple(name for name in FIELDS if offered.get(name))

    def as_json(self) -> dict[str, Any]:
        """The model as GET /v1/models shows it: a set is a list, a range `{"from", "to"}`, a refusal null or empty."""
        return {
            "name": self.name,
            "label": self.label,
            "family": self.family,
            "fields": list(self.fields()),
            "duration": {"offered": _json(self.duration), "follows": self.duration_follows}
            | {"ignoredIn": list(self.duration_ignored_in)},
            "aspectRatio": {
                "textToVideo": list(self.offered_ratios(with_image=False)) if self.images.first == 0 else [],
                "imageToVideo": list(self.ratios),
                "follows": self.ratio_follows,
            },
            "resolution": {
                "offered": list(self.resolutions),
                "default": self.resolution_default,
                "sizes": {ratio: [width, height] for ratio, width, height in self.sizes},
            },
            "prompt": {"need": self.prompt, "maxLength": self.prompt_max, "references": list(self.references)},
            "images": {"count": _json(self.images), "slots": list(self.image_slots)},
            "videos": {
                "count": _json(self.videos),
                "slots": list(self.video_slots),
                "seconds": _json(self.video_seconds),
                "longestSidePx": self.video_side_max_px,
            },
            "imagesAndVideosMax": self.combined_max,
            "startFrame": START_FRAME if self.keyframes else IMAGE_SLOTS[0],
            "endFrame": None if self.end_frame == REFUSED else self.end_frame,
            "multishot": self.shots
            and {
                "shots": _json(self.shots),
                "secondsEach": _json(self.shot_seconds),
                "secondsTotal": self.shots_seconds_max,
                "promptMaxLength": self.shot_prompt_max,
            },
            "edit": None if self.edit_images_max is None else {"imagesMax": self.edit_images_max},
            "audio": self.audio,
            "seed": _json(self.seed),
            "exploreMode": self.explore,
            "characterOrientation": {"offered": list(self.orientations), "default": self.orientation_default},
            "typicalS": {"total": _json(self.total_s), "queue": _json(self.queue_s), "render": _json(self.render_s)},
            "rules": list(self.rules),
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for every model."""

    max_jobs: Annotated[Span, kinds.span(1, 1000)]
    reply_url_max: Annotated[int, kinds.whole(1, TEXT_MAX)]
    reply_ref_max: Annotated[int, kinds.whole(1, TEXT_MAX)]


MODEL_KEYS = keys_of(Model)
"""Keys of `[models."<name>"]`."""
LIMIT_KEYS = keys_of(Limits)
"""Keys of `[limits]`: what holds for every model."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All models by name, in the order of the files; `dated` is the day that the facts were taken down."""

    dated: str
    models: Mapping[str, Model]
    limits: Limits

    def as_json(self) -> dict[str, Any]:
        return {"dated": self.dated, "models": [model.as_json() for model in self.models.values()]}


def parse(*texts: str) -> Catalogue:
    """The catalogue of `texts`: the built-in TOML first, then those that add to it or override it.

    Raises ConfigurationError with every problem: file (counted from 1), model, key and rule.
    """
    reading = _Reading()
    for index, text in enumerate(texts, 1):
        reading.add(f"catalogue file {index}", text)
    return reading.result()


@dataclass(slots=True)
class _Reading:
    """What has been read so far; values of later files replace those of earlier ones."""

    dated: str | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, file: str, text: str) -> None:
        document = self._document(file, text)
        for name, value in document.items():
            if name == "dated":
                self.dated = self._table(file, {"dated": value}, {"dated": _DATED}).get("dated", self.dated)
            elif name == "limits":
                self.limits |= self._table(f"{file}: limits", value, LIMIT_KEYS)
            elif name == "models" and isinstance(value, dict):
                for model, table in value.items():
                    self._model(file, model, table)
            else:
                self._problem(f"{file}: {name}", "known_key", 'must be "dated", [limits] or [models."<name>"]', value)

    def result(self) -> Catalogue:
        if self.dated is None:
            self._problem("dated", "required", "must be given by the first file", None)
        for key in LIMIT_KEYS.keys() - self.limits.keys():
            self._problem(f"limits.{key}", "required", "must be given by the first file", None)
        if not self.models or len(self.models) > MODELS_MAX:
            self._problem("models", "count", f"must be 1 to {MODELS_MAX} models", len(self.models))
        models: dict[str, Model] = {}
        for name, values in self.models.items():
            missing = [key for key in MODEL_KEYS if MODEL_KEYS[key].required and key not in values]
            for key in missing:
                self._problem(self._at(name, key), "required", f"must be {MODEL_KEYS[key].rule}", None)
            if missing:
                continue
            models[name] = Model(name=name, **values)
            for key, rule in _contradictions(models[name]):
                self._problem(self._at(name, key), "consistent", rule, None)
        if self.problems or self.dated is None:
            shown_problems = self.problems[:PROBLEMS_MAX]
            raise ConfigurationError("; ".join(problem.message for problem in shown_problems), problems=shown_problems)
        return Catalogue(self.dated, MappingProxyType(models), Limits(**self.limits))

    def _document(self, file: str, text: str) -> dict[str, Any]:
        if len(text) > FILE_MAX:
            self._problem(file, "max_length", f"must have at most {FILE_MAX} characters", len(text))
            return {}
        try:
            return tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
            # ValueError: an integer of thousands of digits. RecursionError: brackets nested without end.
            self._problem(file, "toml", f"must be TOML: {error}", None)
            return {}

    def _model(self, file: str, name: str, table: object) -> None:
        at = f"{file}: model {shown(name)}"
        if not _NAME.fullmatch(name):
            self._problem(at, "name", "must be named with letters, digits, dots, - and _ (at most 64)", name)
            return
        values = self._table(at, table, MODEL_KEYS)
        self.models[name] = self.models.get(name, {}) | values
        self.origin[name] = file

    def _table(self, at: str, table: object, keys: Mapping[str, Key]) -> dict[str, Any]:
        if not isinstance(table, dict):
            self._problem(at, "table", "must be a table", table)
            return {}
        values: dict[str, Any] = {}
        for name, value in table.items():
            key = keys.get(name)
            if key is None:
                self._problem(f"{at}: {shown(name)}", "known_key", _unknown_key(name, value, keys), value, list(keys))
                continue
            try:
                values[name] = key.read(value)
            except ValueError:
                self._problem(f"{at}: {name}", "value", f"must be {key.rule}", value)
        return values

    def _at(self, model: str, key: str) -> str:
        return f"{self.origin[model]}: model {model}: {key}"

    def _problem(self, at: str, rule: str, sentence: str, given: object, allowed: Sequence[str] | None = None) -> None:
        self.problems.append(Problem(at, rule, f"{at} {sentence}", shown(given), allowed))


def _unknown_key(name: str, value: object, keys: Mapping[str, Key]) -> str:
    if isinstance(value, dict):
        return 'is no key; a model whose name has a dot is written [models."name"], in quotes'
    meant = closest(name, keys)
    return f"is no key; did you mean {meant}?" if meant else f"is no key; the keys are {', '.join(keys)}"


def _contradictions(model: Model) -> Iterator[tuple[str, str]]:
    """Keys whose values are right one by one and wrong together, each with what it must be."""
    if model.prompt != REFUSED and model.prompt_max == 0:
        yield "prompt_max", "must be given where a prompt is taken"
    if model.resolution_default is not None and model.resolution_default not in model.resolutions:
        yield "resolution_default", "must be one of the resolutions"
    if model.orientation_default is not None and model.orientation_default not in model.orientations:
        yield "orientation_default", "must be one of the orientations"
    if any(ratio not in model.ratios for ratio, _, _ in model.sizes):
        yield "sizes", "must be sizes of the ratios"
    if model.end_frame == IMAGE_SLOTS[1] and model.images.last < 2:
        yield "end_frame", "must not be a slot that `images` does not reach"
    if model.edit_images_max is not None and model.videos.last == 0:
        yield "edit_images_max", "must not be given without `videos`: there is nothing to edit"
    if model.shots is not None:
        if model.shot_seconds is None or model.shots_seconds_max is None or model.shot_prompt_max is None:
            yield "shots", "must come with shot_seconds, shots_seconds_max and shot_prompt_max"
        elif model.shots.first * model.shot_seconds.first > model.shots_seconds_max:
            yield "shots_seconds_max", "must leave room for the fewest and shortest shots"


def _json(value: tuple[int, ...] | Span | None) -> object:
    return value.as_json() if isinstance(value, Span) else value and list(value)
