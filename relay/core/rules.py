"""The catalogue's rules for one field each: is this value offered by this model?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from relay.core.catalogue import Model
from relay.core.fields import END_FRAME, IMAGE_SLOTS, SHOT_DURATIONS, SHOT_PROMPTS, START_FRAME, VIDEO_SLOTS
from relay.core.span import Span
from relay.core.wording import either, said, shown
from relay.errors import Problem


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the rules see it: typed values, and the fields that are there but cannot be judged."""

    values: Mapping[str, object]
    unreadable: frozenset[str]

    def has(self, name: str) -> bool:
        return name in self.values or name in self.unreadable

    def any_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of `names` that the request fills."""
        return tuple(name for name in names if self.has(name))

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        return value if isinstance(value, str) else None

    @property
    def shots(self) -> tuple[str, ...]:
        return self.any_of((*SHOT_PROMPTS, *SHOT_DURATIONS))

    def workflow(self, model: Model) -> str | None:
        """`edit`, `multishot` or the plain one (None)."""
        if model.edit_images_max is not None and self.has(VIDEO_SLOTS[0]):
            return "edit"
        return "multishot" if model.shots and self.shots else None


Rule = Callable[[Asked, Model], Iterator[Problem]]


def duration(asked: Asked, model: Model) -> Iterator[Problem]:
    value = asked.values.get("duration")
    if value is None or asked.workflow(model) in model.duration_ignored_in:
        return
    if model.duration is None:
        why = ": the video is as long as its reference video" if model.duration_follows else ": the model decides it"
        yield refusal("duration", value, model, (), why)
    elif value not in model.duration:
        whole = model.duration if isinstance(model.duration, Span) else None
        allowed: object = whole.as_json() if whole else list(model.durations)
        words = f"whole seconds from {whole}" if whole else either(model.durations)
        yield not_offered("duration", value, model, allowed, words)


def aspect_ratio(asked: Asked, model: Model) -> Iterator[Problem]:
    value = asked.values.get("aspect_ratio")
    if value is None:
        return
    with_image = bool(asked.any_of((*IMAGE_SLOTS, START_FRAME)))
    offered = model.offered_ratios(with_image=with_image)
    if not offered:
        why = (
            ": the picture is as wide and high as its reference image"
            if model.ratio_follows
            else ": it offers no choice"
        )
        yield refusal("aspect_ratio", value, model, (), why)
    elif value not in offered:
        words = either(offered)
        if value in model.ratios:
            words += f" without an image; with one {either(model.ratios)}"
        yield not_offered("aspect_ratio", value, model, list(offered), words)


def resolution(asked: Asked, model: Model) -> Iterator[Problem]:
    value = asked.values.get("resolution")
    if value is None or value in model.resolutions:
        return
    if model.resolutions:
        yield not_offered("resolution", value, model, list(model.resolutions), either(model.resolutions))
    else:
        why = ": it follows from the model and aspect_ratio" if model.sizes else ": the model decides it"
        yield refusal("resolution", value, model, (), why)


def text_prompt(asked: Asked, model: Model) -> Iterator[Problem]:
    value = asked.text("text_prompt")
    blank = value is None or not value.strip()
    if model.prompt == "required" and blank and "text_prompt" not in asked.unreadable:
        sentence = f"text_prompt is required by {model.name}: say what is to be seen"
        yield Problem("text_prompt", "required", sentence, value)
    elif model.prompt == "refused" and value:
        yield refusal("text_prompt", value, model, (), ": it takes no prompt")
    elif model.prompt != "refused" and value is not None and len(value) > model.prompt_max:
        yield too_long("text_prompt", value, model.prompt_max, model.name)


def images(asked: Asked, model: Model) -> Iterator[Problem]:
    for slot in asked.any_of(IMAGE_SLOTS[model.images.last :]):
        count = model.images.last
        why = (
            ": it takes no images"
            if not count
            else f": it takes {_counted(count, 'image')}, in {_slots(model.image_slots)}"
        )
        if slot == IMAGE_SLOTS[1] and model.end_frame == "refused":
            why += ", and no end frame"
        yield refusal(slot, asked.values.get(slot), model, model.image_slots, why)
    yield from _missing(asked, model, model.image_slots[: model.images.first], "image")


def videos(asked: Asked, model: Model) -> Iterator[Problem]:
    for slot in asked.any_of(VIDEO_SLOTS[model.videos.last :]):
        count = model.videos.last
        why = (
            ": it takes no videos"
            if not count
            else f": it takes {_counted(count, 'video')}, in {_slots(model.video_slots)}"
        )
        yield refusal(slot, asked.values.get(slot), model, model.video_slots, why)
    yield from _missing(asked, model, model.video_slots[: model.videos.first], "video")


def audio(asked: Asked, model: Model) -> Iterator[Problem]:
    value = asked.values.get("audio")
    if value is None or model.audio == "switch":
        return
    anyway: tuple[object, ...] = {"always": (True,), "never": (False,)}.get(model.audio, ())
    if value not in anyway:
        does = {"always": ": its videos always have sound", "never": ": its videos never have sound"}
        yield refusal("audio", value, model, anyway, does.get(model.audio, ""))


def seed(asked: Asked, model: Model) -> Iterator[Problem]:
    value = asked.values.get("seed")
    if value is None:
        return
    if model.seed is None:
        yield refusal("seed", value, model, (), "")
    elif value not in model.seed:
        yield not_offered("seed", value, model, model.seed.as_json(), f"whole numbers from {model.seed}")


def explore_mode(asked: Asked, model: Model) -> Iterator[Problem]:
    value = asked.values.get("exploreMode")
    if value is not None and value is not False and not model.explore:
        yield refusal("exploreMode", value, model, (False,), ": it always renders with credits")


def character_orientation(asked: Asked, model: Model) -> Iterator[Problem]:
    value = asked.values.get("characterOrientation")
    if value is None or value in model.orientations:
        return
    if model.orientations:
        yield not_offered("characterOrientation", value, model, list(model.orientations), either(model.orientations))
    else:
        yield refusal("characterOrientation", value, model, (), "")


def frames(asked: Asked, model: Model) -> Iterator[Problem]:
    """startFrameAssetId and endFrameAssetId where they are no fields of the model, and an end without a start."""
    if not model.keyframes:
        if asked.has(START_FRAME):
            why = f": its start frame is {IMAGE_SLOTS[0]}"
            yield refusal(START_FRAME, asked.values.get(START_FRAME), model, (IMAGE_SLOTS[0],), why)
        if asked.has(END_FRAME):
            slots = () if model.end_frame == "refused" else (model.end_frame,)
            why = f": its end frame is {model.end_frame}" if slots else ": it takes no end frame"
            yield refusal(END_FRAME, asked.values.get(END_FRAME), model, slots, why)
    elif asked.has(END_FRAME) and not asked.has(START_FRAME):
        sentence = f"{END_FRAME} needs {START_FRAME}: an end frame alone is refused"
        yield Problem(END_FRAME, "needs_start_frame", sentence, shown(asked.values.get(END_FRAME)), START_FRAME)


FIELD_RULES: tuple[Rule, ...] = (
    text_prompt,
    duration,
    aspect_ratio,
    resolution,
    images,
    videos,
    frames,
    audio,
    seed,
    explore_mode,
    character_orientation,
)


def not_offered(field: str, value: object, model: Model, allowed: object, words: str) -> Problem:
    """The model takes the field, but not this value."""
    sentence = f"{field} {said(value)} is not offered by {model.name}: {words}"
    return Problem(field, "not_offered", sentence, shown(value), allowed)


def refusal(field: str, value: object, model: Model, allowed: Sequence[object], why: str) -> Problem:
    """The model does not take the field; `allowed` are the values that change nothing, or the fields to use instead."""
    sentence = f"{field} is not taken by {model.name}{why}"
    return Problem(field, "not_supported", sentence, shown(value), list(allowed))


def too_long(field: str, value: str, allowed: int, who: str) -> Problem:
    """Lengths are counted as the page's "characters": Unicode code points, so an emoji of several counts as several."""
    sentence = f"{field} has {len(value)} characters (Unicode code points): {who} takes at most {allowed}"
    return Problem(field, "max_length", sentence, shown(value), allowed)


def _missing(asked: Asked, model: Model, slots: Sequence[str], kind: str) -> Iterator[Problem]:
    for slot in slots:
        if not asked.has(slot):
            sentence = f"{slot} is required by {model.name}: it does not render without a reference {kind}"
            yield Problem(slot, "required", sentence, None, "asset id")


def _counted(count: int, noun: str) -> str:
    return f"one {noun}" if count == 1 else f"{count} {noun}s"


def _slots(slots: Sequence[str]) -> str:
    return slots[0] if len(slots) == 1 else f"{slots[0]} to {slots[-1]}" if len(slots) > 2 else " and ".join(slots)
