"""The catalogue's rules about fields together: references in prompts, shots, keyframes, what excludes what."""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from relay.core.catalogue import Model
from relay.core.fields import END_FRAME, IMAGE_SLOTS, SHOT_DURATIONS, SHOT_PROMPTS, START_FRAME, VIDEO_SLOTS
from relay.core.rules import Asked, Rule, offered, refusal, too_long
from relay.core.wording import shown
from relay.errors import Problem

_REFERENCE = re.compile(r"@(IMG|VID)_([0-9]+)")
_REFERENCES_MAX = 20
"""Most empty references named one by one in a text: 20,000 characters hold thousands."""


def combined(asked: Asked, model: Model) -> Iterator[Problem]:
    """Images and videos together have a limit of their own."""
    filled = asked.any_of((*model.image_slots, *model.video_slots))
    if model.combined_max is not None and len(filled) > model.combined_max:
        most = f"at most {model.combined_max} references, images and videos together"
        sentence = f"{model.name} takes {most}: {len(filled)} given"
        yield Problem(filled[-1], "combined_limit", sentence, len(filled), model.combined_max)


def prompt_references(asked: Asked, model: Model) -> Iterator[Problem]:
    """@IMG_N and @VID_N name a slot of this request; one that names an empty slot would render something else."""
    slots = {"IMG": model.image_slots, "VID": model.video_slots}
    meant = {"IMG": "image" in model.references, "VID": "video" in model.references}
    for name in ("text_prompt", *(SHOT_PROMPTS if model.shots else ())):
        seen: set[str] = set()
        for match in _REFERENCE.finditer(asked.text(name) or ""):
            kind, number = match[1], match[2]
            if not meant[kind] or match[0] in seen or len(seen) == _REFERENCES_MAX:
                continue
            seen.add(match[0])
            # Compared as text: a number of thousands of digits must not be converted.
            slot = next((slot for count, slot in enumerate(slots[kind], 1) if str(count) == number), None)
            if slot is not None and asked.has(slot):
                continue
            filled = [f"@{kind}_{count}" for count, other in enumerate(slots[kind], 1) if asked.has(other)]
            points = f"to {slot}, which is empty" if slot else f"to no slot of {model.name}"
            sentence = f"{shown(match[0])} in {name} points {points}"
            yield Problem(name, "empty_reference", sentence, shown(match[0]), filled)


def shots(asked: Asked, model: Model) -> Iterator[Problem]:
    """Multishot: pairs of prompt and duration, numbered from 1 without a gap, with limits for each and for all."""
    if model.shots is None or model.shot_seconds is None:
        for name in asked.shots:
            yield refusal(name, asked, model, ": it takes no multishot")
        return
    last = model.shots.last
    for name in asked.any_of((*SHOT_PROMPTS[last:], *SHOT_DURATIONS[last:])):
        yield refusal(name, asked, model, f": it takes shots 1 to {last}")
    pairs = list(zip(SHOT_PROMPTS[:last], SHOT_DURATIONS[:last], strict=True))
    given = [number for number, pair in enumerate(pairs, 1) if asked.any_of(pair)]
    if given and given != list(range(1, len(given) + 1)):
        gap = next(number for number in range(1, last + 1) if number not in given)
        sentence = f"shots are numbered from 1 without a gap: shot {given[-1]} is given and shot {gap} is not"
        yield Problem(SHOT_PROMPTS[gap - 1], "contiguous", sentence, given, list(range(1, len(given) + 1)))
    if given and len(given) not in model.shots:
        sentence = f"{model.name} takes {model.shots} shots: {len(given)} given"
        yield Problem(SHOT_PROMPTS[given[-1] - 1], "shot_count", sentence, len(given), model.shots.as_json())
    for number in given:
        yield from _one_shot(asked, model, number)
    yield from _total(asked, model)


def _one_shot(asked: Asked, model: Model, number: int) -> Iterator[Problem]:
    prompt, seconds = SHOT_PROMPTS[number - 1], SHOT_DURATIONS[number - 1]
    for name, other in ((prompt, seconds), (seconds, prompt)):
        if not asked.has(name):
            yield Problem(name, "required", f"{name} is required by {other}: a shot has a prompt and a duration")
    text = asked.text(prompt)
    if text is not None and not text.strip():
        yield Problem(prompt, "required", f"{prompt} is empty: say what the shot shows", text)
    elif text is not None and model.shot_prompt_max is not None and len(text) > model.shot_prompt_max:
        yield too_long(prompt, text, model.shot_prompt_max, f"a shot of {model.name}")
    yield from offered(seconds, asked, model, model.shot_seconds)


def _total(asked: Asked, model: Model) -> Iterator[Problem]:
    lengths = [value for name in SHOT_DURATIONS if isinstance(value := asked.values.get(name), int | float)]
    total = sum(lengths)
    if model.shots_seconds_max is not None and total > model.shots_seconds_max:
        field = next(name for name in reversed(SHOT_DURATIONS) if asked.has(name))
        sentence = f"the shots last {total} s together: {model.name} takes at most {model.shots_seconds_max}"
        yield Problem(field, "shots_total", sentence, shown(total), model.shots_seconds_max)


def edit(asked: Asked, model: Model) -> Iterator[Problem]:
    """A video that is edited takes fewer reference images than one that is made."""
    if asked.workflow(model) != "edit" or model.edit_images_max is None:
        return
    filled = asked.any_of(model.image_slots)
    if len(filled) > model.edit_images_max:
        sentence = (
            f"{model.name} takes at most {model.edit_images_max} images when it edits a video: {len(filled)} given"
        )
        yield Problem(filled[-1], "edit_images", sentence, len(filled), model.edit_images_max)


def keyframes_exclude_references(asked: Asked, model: Model) -> Iterator[Problem]:
    """A request is either in keyframe mode or in multi-reference mode."""
    references = asked.any_of((*IMAGE_SLOTS, *VIDEO_SLOTS))
    for name in asked.any_of((START_FRAME, END_FRAME))[:1] if references else ():
        yield _excluded(name, asked, f"{references[0]}: {model.name} takes keyframes or references, not both")


def end_frame_excludes_references(asked: Asked, model: Model) -> Iterator[Problem]:
    """A start frame may stand beside reference images, an end frame may not."""
    references = asked.any_of(IMAGE_SLOTS)
    if asked.has(END_FRAME) and references:
        yield _excluded(END_FRAME, asked, f"{references[0]}: {model.name} takes reference images or an end frame")


def workflows_exclude_each_other(asked: Asked, model: Model) -> Iterator[Problem]:
    """A request is one of: frames, multishot (with a start frame at most), the edit of a video."""
    workflow = asked.workflow(model)
    if workflow == "edit":
        for name in (*asked.any_of((START_FRAME, END_FRAME)), *asked.shots[:1]):
            yield _excluded(name, asked, f"{VIDEO_SLOTS[0]}: a video that is edited takes reference images only")
    elif workflow == "multishot" and asked.has(END_FRAME):
        yield _excluded(END_FRAME, asked, f"{asked.shots[0]}: multishot takes {START_FRAME} at most")


def _excluded(name: str, asked: Asked, other: str) -> Problem:
    sentence = f"{name} cannot be combined with {other}"
    return Problem(name, "excludes", sentence, shown(asked.values.get(name)), [])


JOINT_RULES: tuple[Rule, ...] = (combined, prompt_references, shots, edit)

NAMED_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        rule.__name__: rule
        for rule in (keyframes_exclude_references, end_frame_excludes_references, workflows_exclude_each_other)
    }
)
"""Rules that hold where a model's `rules` name them."""
