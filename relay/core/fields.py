"""The fields of a create request: today's names with their kinds, and the names that went before them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

Kind = Literal["text", "whole", "flag", "asset"]

IMAGE_SLOTS = tuple(f"imageAssetId{number}" for number in range(1, 12))
VIDEO_SLOTS = ("videoAssetId", "videoAssetId2", "videoAssetId3")
REFUSED: Final = "refused"
"""What the catalogue says of a field that a model does not take; a later file can take a value back with it."""

START_FRAME, END_FRAME = "startFrameAssetId", "endFrameAssetId"
ASSET_FIELDS = (*IMAGE_SLOTS, *VIDEO_SLOTS, START_FRAME, END_FRAME)

SHOTS_MAX = 6
SHOT_PROMPTS = tuple(f"multishot_prompt_{number}" for number in range(1, SHOTS_MAX + 1))
SHOT_DURATIONS = tuple(f"multishot_duration_{number}" for number in range(1, SHOTS_MAX + 1))

_SCHEMA_TYPES: Mapping[Kind, str] = {"text": "string", "whole": "integer", "flag": "boolean", "asset": "string"}


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `kind` says what its value must be (`asset`: the text of an asset id), `meaning` is for people."""

    name: str
    kind: Kind
    meaning: str

    def schema(self) -> dict[str, Any]:
        """The field's JSON Schema; what a model allows of it is the catalogue's to say."""
        return {"type": _SCHEMA_TYPES[self.kind], "description": self.meaning}


def _fields() -> Mapping[str, Field]:
    fields = [
        Field("model", "text", "which model renders; see GET /v1/models"),
        Field("email", "text", "the upstream account that must render"),
        Field("text_prompt", "text", "what is to be seen; its length is counted in Unicode code points"),
        Field("duration", "whole", "length of the video in seconds; by default the first value that the model offers"),
        Field("aspect_ratio", "text", "width to height, such as 16:9"),
        Field("resolution", "text", "height of the picture, such as 720p"),
        Field("audio", "flag", "whether the video has sound"),
        Field("seed", "whole", "start of the model's chance; the same seed gives similar videos"),
        *(Field(slot, "asset", f"reference image {number}") for number, slot in enumerate(IMAGE_SLOTS, 1)),
        *(Field(slot, "asset", f"reference video {number}") for number, slot in enumerate(VIDEO_SLOTS, 1)),
        Field(START_FRAME, "asset", "image that the video begins with"),
        Field(END_FRAME, "asset", "image that the video ends with; needs startFrameAssetId"),
        Field("characterOrientation", "text", "whether the character faces as in the image or as in the video"),
    ]
    for number, (prompt, duration) in enumerate(zip(SHOT_PROMPTS, SHOT_DURATIONS, strict=True), 1):
        fields.append(Field(prompt, "text", f"what shot {number} shows"))
        fields.append(Field(duration, "whole", f"length of shot {number} in seconds"))
    fields += [
        Field("exploreMode", "flag", "render without credits, at low priority, where the account's plan has that"),
        Field("replyUrl", "text", "where this job's reports are posted to"),
        Field("replyRef", "text", "your own reference, returned with every report"),
        Field("maxJobs", "whole", "how many tasks the account may run at a time"),
    ]
    return MappingProxyType({field.name: field for field in fields})


FIELDS: Mapping[str, Field] = _fields()
"""Every field of the upstream's page "Videos", in the page's order."""

OWN_FIELDS = frozenset({"model", "email", "replyUrl", "replyRef", "maxJobs"})
"""Fields that the relay itself acts on: their types hold in every mode."""

YESTERDAYS: Mapping[str, str] = MappingProxyType(
    {
        "seconds": "duration",
        "firstImage_assetId": "imageAssetId1",
        "image_assetId": "imageAssetId1",
        "lastImage_assetId": "imageAssetId2",
        "video_assetId": "videoAssetId",
    }
)
"""What the upstream's older create endpoints called a field, with today's name. A program that was moved over
with nothing but its address changed sends these; where nobody says so, the paid video is not the one asked for."""


_YESTERDAYS_FRAMES: Mapping[str, str] = MappingProxyType(
    {"firstImage_assetId": START_FRAME, "lastImage_assetId": END_FRAME}
)

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "text_prompt",
        "promptText": "text_prompt",
        "promptImage": "imageAssetId1",
        "ratio": "aspect_ratio",
        "webhookUrl": "replyUrl",
        "callbackUrl": "replyUrl",
    }
)
"""What other video APIs call a field: only a hint for whoever wrote a name that does not exist here."""


def todays_name(name: str, *, keyframes: bool) -> str | None:
    """What the older endpoints' `name` is called today, or None; `keyframes`: the model has frame fields of its own."""
    if keyframes and name in _YESTERDAYS_FRAMES:
        return _YESTERDAYS_FRAMES[name]
    return YESTERDAYS.get(name)
