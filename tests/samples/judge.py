"""Says which rules of the upstream's page a request breaks, from the transcription alone, without the relay's code.

It judges requests without nulls, as the native door gets them, in the strict mode.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.samples.page import Page, numbers

Request = Mapping[str, Any]

IMAGES = [f"imageAssetId{number}" for number in range(1, 12)]
VIDEOS = ["videoAssetId", "videoAssetId2", "videoAssetId3"]
FRAMES = ["startFrameAssetId", "endFrameAssetId"]
ASSETS = [*IMAGES, *VIDEOS, *FRAMES]
SHOTS = range(1, 7)

ASSET = re.compile(r"user:\d{1,19}-runwayml:([^\s/?#%\\]{1,254})-asset:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def within(value: float, allowed: range | tuple[int, ...] | None) -> bool:
    """Whether a whole number is allowed; Python would look for 5.5 in a range by going through all of it."""
    return allowed is not None and value == int(value) and int(value) in allowed


class Judge:
    """Knows the page; asks nobody else."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.facts = {model: page.facts(model) for model in page.models}
        self.jobs = numbers(page.says("text", "others", "maxJobs"))
        self.lengths = {name: page.says("text", "others", f"{name}_longest") for name in ("replyUrl", "replyRef")}
        self.counts_beside_shots = page.says("settled", "duration_counts_beside_shots")
        self.kinds = {kind: set(page.says("text", "fields", kind)) for kind in ("text", "number", "flag")}
        self.end_needs_start = page.says("text", "keyframes", "end_needs_start")

    def broken(self, request: Request) -> set[str]:
        """Names of the rules that `request` breaks; none: the page allows it."""
        found = set(self._names_and_types(request))
        facts = self.facts.get(request["model"]) if "model" in request and "type" not in found else None
        if facts is None:
            return found | {"model"}  # Wrong types are enough; the other rules cannot be asked.
        found.update(self._general(request))
        for part in (self._values, self._prompt, self._slots, self._frames, self._shots):
            found.update(part(request, facts))
        return found

    def _names_and_types(self, request: Request) -> Iterator[str]:
        if request.keys() - set().union(*self.kinds.values()):
            yield "field"
        for name, value in request.items():
            if name in self.kinds["text"] and not isinstance(value, str):
                yield "type"
            if name in self.kinds["number"] and (not isinstance(value, int | float) or isinstance(value, bool)):
                yield "type"
            if name in self.kinds["flag"] and not isinstance(value, bool):
                yield "type"

    def _general(self, request: Request) -> Iterator[str]:
        if not within(request.get("maxJobs", 1), self.jobs):
            yield "maxJobs"
        for name, longest in self.lengths.items():
            if len(request.get(name, "")) > longest:
                yield f"{name} length"
        if not re.match("https?://", request.get("replyUrl", "http://"), re.IGNORECASE):
            yield "replyUrl"
        matches = [ASSET.fullmatch(request[name]) for name in ASSETS if name in request]
        if not all(matches):
            yield "asset id"
        accounts = {match[1].lower() for match in matches if match}
        if "email" in request:
            if "@" not in request["email"] or re.search(r"[\s/?#%\\]", request["email"]):
                yield "email"
            else:
                accounts.add(request["email"].lower())
        if len(accounts) > 1:
            yield "one account"

    def _values(self, request: Request, facts: dict[str, Any]) -> Iterator[str]:
        shots = facts["shots"] is not None and self._shots_of(request)
        edits = facts["edit_images_max"] is not None and "videoAssetId" in request
        ignored = (shots and facts["name"] not in self.counts_beside_shots) or edits
        if "duration" in request and not ignored and not within(request["duration"], facts["duration"]):
            yield "duration"
        if "aspect_ratio" in request:
            with_image = any(name in request for name in (*IMAGES, "startFrameAssetId"))
            offered = facts["ratios"] if with_image or not facts["ratios_t2v"] else facts["ratios_t2v"]
            if request["aspect_ratio"] not in offered:
                yield "aspect_ratio"
        if "resolution" in request and request["resolution"] not in facts["resolutions"]:
            yield "resolution"
        allowed = {"switch": (True, False), "always": (True,), "never": (False,), "refused": ()}[facts["audio"]]
        if "audio" in request and request["audio"] not in allowed:
            yield "audio"
        if "seed" in request and not within(request["seed"], facts["seed"]):
            yield "seed"
        if request.get("exploreMode") and not facts["explore"]:
            yield "exploreMode"
        if "characterOrientation" in request and request["characterOrientation"] not in facts["orientations"]:
            yield "characterOrientation"

    def _prompt(self, request: Request, facts: dict[str, Any]) -> Iterator[str]:
        prompt = request.get("text_prompt", "")
        if facts["prompt"] == "required" and not prompt.strip():
            yield "prompt need"
        if facts["prompt"] == "refused" and prompt:
            yield "prompt need"
        if facts["prompt"] != "refused" and len(prompt) > facts["prompt_max"]:
            yield "prompt length"
        texts = [prompt]
        if facts["shots"] is not None:
            texts += [request.get(f"multishot_prompt_{number}", "") for number in SHOTS]
        filled = {f"@IMG_{number}" for number, slot in enumerate(IMAGES, 1) if slot in request}
        filled |= {f"@VID_{number}" for number, slot in enumerate(VIDEOS, 1) if slot in request}
        for kind, name in (("image", "IMG"), ("video", "VID")):
            named = {found for text in texts for found in re.findall(rf"@{name}_[0-9]+", text)}
            if kind in facts["references"] and named - filled:
                yield "prompt references"

    def _slots(self, request: Request, facts: dict[str, Any]) -> Iterator[str]:
        for name, slots, span in (("images", IMAGES, facts["images"]), ("videos", VIDEOS, facts["videos"])):
            given = {number for number, slot in enumerate(slots, 1) if slot in request}
            if given - set(range(1, span[-1] + 1)) or set(range(1, span[0] + 1)) - given:
                yield name
        images = sum(slot in request for slot in IMAGES)
        videos = sum(slot in request for slot in VIDEOS)
        if facts["combined_max"] is not None and images + videos > facts["combined_max"]:
            yield "combined"
        if facts["edit_images_max"] is not None and videos and images > facts["edit_images_max"]:
            yield "edit images"

    def _frames(self, request: Request, facts: dict[str, Any]) -> Iterator[str]:
        start, end = (name in request for name in FRAMES)
        if (start or end) and facts["end_frame"] != "endFrameAssetId":
            yield "keyframes"
        elif end and self.end_needs_start and not start:
            yield "end needs start"
        references = any(name in request for name in (*IMAGES, *VIDEOS))
        if "keyframes_exclude_references" in facts["rules"] and (start or end) and references:
            yield "keyframes or references"
        if "end_frame_excludes_references" in facts["rules"] and end and any(name in request for name in IMAGES):
            yield "end frame or images"
        if "workflows_exclude_each_other" in facts["rules"]:
            shots = bool(self._shots_of(request))
            edits = facts["edit_images_max"] is not None and "videoAssetId" in request
            if (edits and (start or end or shots)) or (shots and end):
                yield "one workflow"

    def _shots_of(self, request: Request) -> list[int]:
        kinds = ("prompt", "duration")
        return [number for number in SHOTS if any(f"multishot_{kind}_{number}" in request for kind in kinds)]

    def _shots(self, request: Request, facts: dict[str, Any]) -> Iterator[str]:
        given = self._shots_of(request)
        if not given:
            return
        if facts["shots"] is None:
            yield "multishot"
            return
        if len(given) not in facts["shots"] or given[-1] > facts["shots"][-1]:
            yield "shot count"
        if given != list(range(1, len(given) + 1)):
            yield "shot order"
        total = 0
        for number in given:
            prompt, length = request.get(f"multishot_prompt_{number}"), request.get(f"multishot_duration_{number}")
            if prompt is None or not prompt.strip() or length is None:
                yield "shot pair"
            if prompt is not None and len(prompt) > facts["shot_prompt_max"]:
                yield "shot prompt length"
            if length is not None and not within(length, facts["shot_seconds"]):
                yield "shot duration"
            total += length or 0
        if total > facts["shots_seconds_max"]:
            yield "shots total"
