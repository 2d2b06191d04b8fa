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
    if asked.workflow(model) not in model.duration_ignored_in:
        why = ": the video is as long as its reference video" if model.duration_follows else ": the model decides it"
        yield from offered("duration", asked, model, model.duration, why)


def aspect_ratio(asked: Asked, model: Model) -> Iterator[Problem]:
    follows = ": the picture is as wide and high as its reference image"
    why = follows if model.ratio_follows else ": it offers no choice"
    ratios = model.offered_ratios(with_image=bool(asked.any_of((*IMAGE_SLOTS, START_FRAME))))
    elsewhere = asked.values.get("aspect_ratio") in model.ratios
    more = f" without an image; with one {either(model.ratios)}" if elsewhere else ""
    yield from offered("aspect_ratio", asked, model, ratios, why, more)


def resolution(asked: Asked, model: Model) -> Iterator[Problem]:
    why = ": it follows from the model and aspect_ratio" if model.sizes else ": the model decides it"
    yield from offered("resolution", asked, model, model.resolutions, why)


def seed(asked: Asked, model: Model) -> Iterator[Problem]:
    yield from offered("seed", asked, model, model.seed)


def character_orientation(asked: Asked, model: Model) -> Iterator[Problem]:
    yield from offered("characterOrientation", asked, model, model.orientations)


def audio(asked: Asked, model: Model) -> Iterator[Problem]:
    anyway, why = {
        "always": ((True,), ": its videos always have sound"),
        "never": ((False,), ": its videos never have sound"),
    }.get(model.audio, ((), ""))
    value = asked.values.get("audio")
    if value is not None and model.audio != "switch" and value not in anyway:
        yield refusal("audio", asked, model, why, anyway)


def explore_mode(asked: Asked, model: Model) -> Iterator[Problem]:
    value = asked.values.get("exploreMode")
    if value is not None and value is not False and not model.explore:
        yield refusal("exploreMode", asked, model, ": it always renders with credits", (False,))


def text_prompt(asked: Asked, model: Model) -> Iterator[Problem]:
    value = asked.text("text_prompt")
    blank = value is None or not value.strip()
    if model.prompt == "required" and blank and "text_prompt" not in asked.unreadable:
        sentence = f"text_prompt is required by {model.name}: say what is to be seen"
        yield Problem("text_prompt", "required", sentence, value)
    elif model.prompt == "refused" and value:
        yield refusal("text_prompt", asked, model, ": it takes no prompt")
    elif model.prompt != "refused" and value is not None and len(value) > model.prompt_max:
        yield too_long("text_prompt", value, model.prompt_max, model.name)


def images(asked: Asked, model: Model) -> Iterator[Problem]:
    yield from _slots(asked, model, "image", IMAGE_SLOTS, model.images)


def videos(asked: Asked, model: Model) -> Iterator[Problem]:
    yield from _slots(asked, model, "video", VIDEO_SLOTS, model.videos)


def frames(asked: Asked, model: Model) -> Iterator[Problem]:
    """startFrameAssetId and endFrameAssetId where they are no fields of the model, and an end without a start."""
    if not model.keyframes:
        if asked.has(START_FRAME):
            yield refusal(START_FRAME, asked, model, f": its start frame is {IMAGE_SLOTS[0]}", IMAGE_SLOTS[:1])
        if asked.has(END_FRAME):
            slots = () if model.end_frame == "refused" else (model.end_frame,)
            why = f": its end frame is {model.end_frame}" if slots else ": it takes no end frame"
            yield refusal(END_FRAME, asked, model, why, slots)
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


def offered(
    field: str, asked: Asked, model: Model, values: Span | Sequence[object] | None, why: str = "", more: str = ""
) -> Iterator[Problem]:
    """A field of which the model offers `values`. `why` it is refused without any; `more` to say of what is offered."""
    value = asked.values.get(field)
    if value is None or (values and value in values):
        return
    if not values:
        yield refusal(field, asked, model, why)
        return
    unit = "numbers" if field == "seed" else "seconds"
    words = f"whole {unit} from {values}" if isinstance(values, Span) else either(values)
    allowed = values.as_json() if isinstance(values, Span) else list(values)
    sentence = f"{field} {said(value)} is not offered by {model.name}: {words}{more}"
    yield Problem(field, "not_offered", sentence, shown(value), allowed)


def refusal(field: str, asked: Asked, model: Model, why: str, allowed: Sequence[object] = ()) -> Problem:
    """The model does not take the field; `allowed` are the values that change nothing, or the fields to use instead."""
    sentence = f"{field} is not taken by {model.name}{why}"
    return Problem(field, "not_supported", sentence, shown(asked.values.get(field)), list(allowed))


def too_long(field: str, value: str, allowed: int, who: str) -> Problem:
    """Lengths are counted as the page's "characters": Unicode code points, so an emoji of several counts as several."""
    sentence = f"{field} has {len(value)} characters (Unicode code points): {who} takes at most {allowed}"
    return Problem(field, "max_length", sentence, shown(value), allowed)


def _slots(asked: Asked, model: Model, kind: str, every: Sequence[str], taken: Span) -> Iterator[Problem]:
    """References of a kind: in the first of `every` slot, the fewest in the very first."""
    slots = every[: taken.last]
    count = f"one {kind}" if taken.last == 1 else f"{taken.last} {kind}s"
    why = f": it takes {count}, in {_named(slots)}" if slots else f": it takes no {kind}s"
    for slot in asked.any_of(every[taken.last :]):
        no_end = ", and no end frame" if slot == IMAGE_SLOTS[1] and model.end_frame == "refused" else ""
        yield refusal(slot, asked, model, why + no_end, slots)
    for slot in every[: taken.first]:
        if not asked.has(slot):
            sentence = f"{slot} is required by {model.name}: it does not render without a reference {kind}"
            yield Problem(slot, "required", sentence, None, "asset id")


def _named(slots: Sequence[str]) -> str:
    return slots[0] if len(slots) == 1 else f"{slots[0]} to {slots[-1]}" if len(slots) > 2 else " and ".join(slots)
