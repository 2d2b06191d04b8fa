"""Small changes of the catalogue: for each key of each model a few other values, as an overriding file."""

import json
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any

from relay.core.catalogue import BUILT_IN, Catalogue, parse
from relay.core.catalogue_keys import RULE_NAMES, WORKFLOWS
from relay.errors import ConfigurationError

TEXT = resources.files("relay.core").joinpath(BUILT_IN).read_text("utf-8")
RAW: dict[str, dict[str, Any]] = tomllib.loads(TEXT)["models"]

_CHOICES = {
    "prompt": ("required", "optional", "refused"),
    "audio": ("switch", "always", "never", "refused"),
    "end_frame": ("imageAssetId2", "endFrameAssetId", "refused"),
    "duration_follows": ("video", "refused"),
    "ratio_follows": ("image", "refused"),
    "resolution_default": ("480p", "720p", "1080p", "refused"),
    "orientation_default": ("image", "video", "refused"),
}
_MEMBERS = {"references": ("image", "video"), "duration_ignored_in": WORKFLOWS, "rules": RULE_NAMES}
_ADDED: dict[str, object] = {
    "duration": [5],
    "ratios": ["1:1"],
    "ratios_t2v": ["1:1"],
    "resolutions": ["720p"],
    "sizes": {"16:9": "1280x720"},
    "orientations": ["image"],
    "videos": {"from": 0, "to": 1},
}
_ANOTHER = {"ratios": "2:1", "ratios_t2v": "2:1", "resolutions": "4k", "orientations": "portrait"}
_COMPANIONS: dict[str, dict[str, object]] = {
    "prompt": {"prompt_max": 100},
    "shots": {"shot_seconds": {"from": 3, "to": 12}, "shots_seconds_max": 15, "shot_prompt_max": 512},
    "edit_images_max": {"videos": {"from": 0, "to": 1}},
    "resolution_default": {"resolutions": ["480p", "720p", "1080p"]},
    "orientation_default": {"orientations": ["image", "video"]},
    "sizes": {"ratios": ["16:9"]},
}
"""What a key needs beside it where the model does not have that either."""


def mutants(model: str, key: str) -> Iterator[tuple[object, Catalogue]]:
    """(the other value, the catalogue with it) for changes of `key` that load; those that do not mislead nobody."""
    table = RAW[model]
    companions = {other: value for other, value in _COMPANIONS.get(key, {}).items() if not table.get(other)}
    for value in _values(key, table.get(key)):
        if value == table.get(key):
            continue  # A list of one, turned round.
        try:
            yield value, parse(TEXT, f'[models."{model}"]\n' + lines({key: value} | companions))
        except ConfigurationError:
            continue


def limit_mutants(key: str) -> Iterator[Catalogue]:
    """The catalogue with another value of a key of [limits]."""
    for value in _values(key, tomllib.loads(TEXT)["limits"][key]):
        yield parse(TEXT, "[limits]\n" + lines({key: value}))


def without(model: str, key: str) -> Catalogue | None:
    """The catalogue without one key; None where it does not load."""
    document = tomllib.loads(TEXT)
    del document["models"][model][key]
    text = lines({"dated": document["dated"]}) + "[limits]\n" + lines(document["limits"])
    text += "".join(f'[models."{name}"]\n{lines(table)}' for name, table in document["models"].items())
    try:
        return parse(text)
    except ConfigurationError:
        return None


def lines(table: dict[str, Any]) -> str:
    """The table's keys as TOML."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else json.dumps(value)


def _values(key: str, value: Any) -> Iterator[object]:
    if key in _CHOICES:
        yield from (choice for choice in _CHOICES[key] if choice != (value or "refused"))
    elif key in _MEMBERS:
        yield from ([*(value or []), name] for name in _MEMBERS[key] if name not in (value or []))
        yield from ([other for other in value if other != name] for name in value or [])
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, str) and value != "refused":
        yield value + "s"
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, dict) and "from" in value:
        first, last = value["from"], value["to"]
        yield from (
            {"from": first, "to": last + 1},
            {"from": first + 1, "to": last + 1},
            {"from": first, "to": last - 1},
        )
    elif isinstance(value, dict):
        yield {ratio: size.replace("0x", "1x") for ratio, size in value.items()}
    elif isinstance(value, list) and value:
        yield value[:-1]
        yield [*value[:-1], value[-1] + 1] if key == "duration" else [*value, _ANOTHER[key]]
        yield [*value[1:], value[0]]
    else:
        yield _ADDED.get(key, {"from": 1, "to": 2})
        yield 3
