"""Requests on both sides of every rule of the page, model by model; the table of rules and the tests send them."""

from collections.abc import Callable, Iterator
from typing import Any

from tests.samples.judge import ASSETS, IMAGES, VIDEOS, Judge

Probe = dict[str, Any]
Change = dict[str, Any]


def asset(number: int, account: str = "me@example.com") -> str:
    """A made-up asset id."""
    return f"user:7-runwayml:{account}-asset:0000000a-0000-4000-8000-{number:012x}"


def plain(judge: Judge, model: str) -> Probe:
    """The smallest request of a model that says what it wants."""
    facts = judge.facts[model]
    request: Probe = {"model": model}
    if facts["prompt"] != "refused":
        request["text_prompt"] = "waves"
    needed = [*IMAGES[: facts["images"][0]], *VIDEOS[: facts["videos"][0]]]
    return request | {slot: asset(ASSETS.index(slot)) for slot in needed}


def images(count: int) -> Change:
    return {slot: asset(ASSETS.index(slot)) for slot in IMAGES[:count]}


def videos(count: int) -> Change:
    return {slot: asset(ASSETS.index(slot)) for slot in VIDEOS[:count]}


def shots(*seconds: int, prompt: str = "a wave") -> Change:
    made: Change = {}
    for number, length in enumerate(seconds, 1):
        made |= {f"multishot_prompt_{number}": prompt, f"multishot_duration_{number}": length}
    return made


START, END = {"startFrameAssetId": asset(20)}, {"endFrameAssetId": asset(21)}
NOTHING: Change = {}


def _duration(facts: Any) -> Iterator[Change]:
    yield NOTHING
    yield from ({"duration": seconds} for seconds in (*range(17), 60, -5, 5.0, 5.5))


def _ratio(facts: Any) -> Iterator[Change]:
    for ratio in ("16:9", "9:16", "1:1", "4:3", "3:4", "21:9", "2:1", "auto"):
        yield {"aspect_ratio": ratio}
        yield {"aspect_ratio": ratio} | images(1)
    yield NOTHING


def _resolution(facts: Any) -> Iterator[Change]:
    yield NOTHING
    yield from ({"resolution": name} for name in ("480p", "720p", "1080p", "4k", "auto"))


def _prompt_need(facts: Any) -> Iterator[Change]:
    yield NOTHING
    yield {"text_prompt": None}
    yield {"text_prompt": " "}
    yield {"text_prompt": "a dog"}


def _prompt_length(facts: Any) -> Iterator[Change]:
    for length in (facts["prompt_max"] - 1, facts["prompt_max"], facts["prompt_max"] + 1):
        yield {"text_prompt": "🌊" * length}


def _prompt_references(facts: Any) -> Iterator[Change]:
    yield from ({"text_prompt": text} for text in ("see @IMG_9", "see @VID_3", "see @img_1", "see @IMG_ 1"))
    for kind, slots in (("image", images), ("video", videos)):
        if kind not in facts["references"]:
            continue
        word = "@IMG_" if kind == "image" else "@VID_"
        last = facts[f"{kind}s"][-1]
        for count in (1, last):
            yield {"text_prompt": f"from {word}{count} on"} | slots(count)
        yield {"text_prompt": f"{word}1"}
        yield {"text_prompt": f"{word}2"} | slots(1)
        yield {"text_prompt": f"{word}{last + 1}"} | slots(last)
        yield {"text_prompt": f"{word}0"} | slots(1)
    if facts["shots"] is not None:
        yield shots(5, 5, prompt="see @IMG_1") | images(1)
        yield shots(5, 5, prompt="see @IMG_2") | images(1)


def _images(facts: Any) -> Iterator[Change]:
    yield dict.fromkeys(IMAGES)
    for slot in IMAGES:
        yield images(facts["images"][0]) | {slot: asset(3)}
    yield from (images(count) for count in range(12))


def _videos(facts: Any) -> Iterator[Change]:
    yield dict.fromkeys(VIDEOS)
    yield from ({slot: asset(4)} for slot in VIDEOS)
    yield from (videos(count) for count in range(4))


def _combined(facts: Any) -> Iterator[Change]:
    for count in range(4):
        yield images(8) | videos(count)
        yield images(11 - count) | videos(count)
        yield images(11) | videos(count)


def _keyframes(facts: Any) -> Iterator[Change]:
    yield from (NOTHING, START, END, START | END)


def _keyframes_and_references(facts: Any) -> Iterator[Change]:
    for frames in (START, START | END):
        yield frames
        yield frames | images(1)
        yield frames | videos(1)
    yield images(2)


def _multishot(facts: Any) -> Iterator[Change]:
    yield NOTHING
    yield from (shots(*[3] * count) for count in range(1, 7))


def _shot_pairs(facts: Any) -> Iterator[Change]:
    yield shots(5, 5)
    yield shots(5, 5) | {"multishot_prompt_2": None}
    yield shots(5, 5) | {"multishot_duration_1": None}
    yield shots(5, 5) | {"multishot_prompt_1": None, "multishot_duration_1": None}
    yield shots(3, 3, 3) | {"multishot_prompt_2": None, "multishot_duration_2": None}
    yield shots(5, 5) | {"multishot_prompt_2": " "}


def _shot_durations(facts: Any) -> Iterator[Change]:
    yield from (shots(3, length) for length in (0, 2, 3, 4, 11, 12, 13))


def _shots_total(facts: Any) -> Iterator[Change]:
    yield from (
        shots(*lengths) for lengths in ((3, 12), (4, 12), (5, 5, 5), (5, 5, 6), (3, 3, 3, 3, 3), (4, 3, 3, 3, 3))
    )


def _shot_prompt(facts: Any) -> Iterator[Change]:
    yield from (shots(5, 5, prompt="é" * length) for length in (511, 512, 513))


def _edit(facts: Any) -> Iterator[Change]:
    yield from (videos(1) | images(count) for count in range(8))
    yield videos(1) | {"duration": 7}
    yield from (videos(1) | other for other in (START, START | END, shots(5, 5)))
    yield shots(5, 5) | START
    yield shots(5, 5) | START | END
    yield shots(5, 5) | {"duration": 7}


def _audio(facts: Any) -> Iterator[Change]:
    yield from (NOTHING, {"audio": True}, {"audio": False})


def _seed(facts: Any) -> Iterator[Change]:
    yield NOTHING
    yield from ({"seed": seed} for seed in (-1, 0, 1, 2, 4294967293, 4294967294, 4294967295))


def _explore(facts: Any) -> Iterator[Change]:
    yield from (NOTHING, {"exploreMode": True}, {"exploreMode": False})


def _orientation(facts: Any) -> Iterator[Change]:
    yield NOTHING
    yield from ({"characterOrientation": name} for name in ("image", "video", "portrait"))


def _jobs(facts: Any) -> Iterator[Change]:
    yield from ({"maxJobs": count} for count in (-1, 0, 1, 2, 9, 10, 11))


def _reply(facts: Any) -> Iterator[Change]:
    for length in (1023, 1024, 1025):
        yield {"replyUrl": "https://example.com/".ljust(length, "x")}
        yield {"replyRef": "é" * length}
    yield {"replyUrl": "example.com"}


def _accounts(facts: Any) -> Iterator[Change]:
    yield {"email": "me@example.com"}
    yield {"email": "not an e-mail"}
    yield {"email": "you@example.com", "imageAssetId1": asset(1)}
    slots = facts["images"][-1]
    yield {"imageAssetId1": asset(1, "you@example.com")} | (videos(1) if facts["videos"][0] else NOTHING)
    if slots > 1:
        yield images(2) | {"imageAssetId2": asset(2, "you@example.com")}
    yield {"imageAssetId1": "user:7-runwayml:me@example.com-asset:123"}


def _names(facts: Any) -> Iterator[Change]:
    yield NOTHING
    yield from ({name: "x"} for name in ("colour", "aspectRatio", "Model", "imageAssetId12", "multishot_prompt_7"))
    yield from ({name: 5} for name in ("seconds", "firstImage_assetId", "image_assetId", "lastImage_assetId"))


def _types(facts: Any) -> Iterator[Change]:
    yield NOTHING
    odd: dict[str, tuple[object, ...]] = {
        "duration": ("5", True, [5], {}),
        "text_prompt": (5, False, ["waves"]),
        "audio": ("true", 1, []),
        "imageAssetId1": (1, [asset(1)]),
    }
    yield from ({name: value} for name, values in odd.items() for value in values)


def always(facts: Any) -> bool:
    return True


def has(key: str) -> Callable[[Any], bool]:
    return lambda facts: bool(facts[key])


RULES: dict[str, tuple[Callable[[Any], Iterator[Change]], Callable[[Any], bool]]] = {
    "duration": (_duration, always),
    "aspect ratio": (_ratio, always),
    "resolution": (_resolution, always),
    "prompt: need": (_prompt_need, always),
    "prompt: length": (_prompt_length, has("prompt_max")),
    "prompt: @refs": (_prompt_references, has("prompt_max")),
    "images": (_images, always),
    "videos": (_videos, always),
    "images+videos": (_combined, has("combined_max")),
    "start/end frame": (_keyframes, always),
    "frames or refs": (_keyframes_and_references, lambda facts: facts["end_frame"] == "endFrameAssetId"),
    "multishot": (_multishot, always),
    "shot: pairs": (_shot_pairs, has("shots")),
    "shot: seconds": (_shot_durations, has("shots")),
    "shots: total": (_shots_total, has("shots")),
    "shot: prompt": (_shot_prompt, has("shots")),
    "edit/workflows": (_edit, lambda facts: "workflows_exclude_each_other" in facts["rules"]),
    "audio": (_audio, always),
    "seed": (_seed, always),
    "exploreMode": (_explore, always),
    "orientation": (_orientation, always),
    "maxJobs": (_jobs, always),
    "reply": (_reply, always),
    "accounts": (_accounts, always),
    "field names": (_names, always),
    "types": (_types, always),
}
"""Name of a rule → the changes that try it, and whether it applies to a model."""


def probes(judge: Judge, model: str, rule: str) -> list[Probe]:
    """Requests that try `rule` with `model`, without nulls; none where the rule does not apply to it."""
    changes, applies = RULES[rule]
    facts = judge.facts[model]
    if not applies(facts):
        return []
    requests = [plain(judge, model) | change for change in changes(facts)]
    return [{name: value for name, value in request.items() if value is not None} for request in requests]
