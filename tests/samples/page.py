"""Reads the transcription of the upstream's page: cells, statements of the text, and the facts about each model.

Nothing here imports the relay: ranges are `range`, sets are tuples, so that the catalogue is held against something
that shares no code with it. Every cell and statement that is read is ticked off; `unread` are those that were not.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

ABSENT = "none"


class Page:
    """The transcription, in the file's own words."""

    def __init__(self) -> None:
        self._document = tomllib.loads(Path(__file__).with_name("page.toml").read_text("utf-8"))
        self._tables: list[dict[str, Any]] = self._document["table"]
        self.unread: set[str] = set()
        for table in self._tables:
            for row in table.keys() - {"title", "model"}:
                assert len(table[row]) == len(table["model"]), f"{table['title']}: {row} has not a cell a model"
                self.unread.update(f"{row} of {model}" for model in table["model"])
        for part in ("text", "settled"):
            self.unread.update(_leaves(self._document[part], part))
        self.models: list[str] = [model for table in self._tables for model in table["model"]]

    @property
    def taken_down(self) -> str:
        taken_down: str = self._document["taken_down"]
        return taken_down

    def family(self, model: str) -> str:
        return next(str(table["title"]) for table in self._tables if model in table["model"])

    def cell(self, model: str, row: str) -> str:
        """The cell, `-` for a dash, `none` where the model's table has no such row."""
        self.unread.discard(f"{row} of {model}")
        table = next(table for table in self._tables if model in table["model"])
        return str(table[row][table["model"].index(model)]) if row in table else ABSENT

    def says(self, *path: str) -> Any:
        """What stands in the text (or among what was settled) at `path`."""
        self.unread.discard(".".join(path))
        found: Any = self._document
        for step in path:
            found = found[step]
        return found

    def of(self, *path: str, model: str) -> Any:
        """The same from a table by model; None where the model is not named."""
        found = self.says(*path)
        self.unread.discard(".".join((*path, model)))
        return found.get(model)

    def facts(self, model: str) -> dict[str, Any]:
        """All about one model, under the names that the catalogue gives to the same things."""
        return {
            "name": model,
            "label": self.cell(model, "label"),
            "family": self.family(model),
            **self._duration(model),
            **self._picture(model),
            **self._prompt(model),
            **self._references(model),
            **self._shots(model),
            **self._switches(model),
            **self._times(model),
            "rules": self._rules(model),
        }

    def _duration(self, model: str) -> dict[str, Any]:
        cell = self.cell(model, "duration")
        ignored = []
        if model in self.says("text", "duration", "sum_in_multishot"):
            ignored.append("multishot")
        if model in self.says("text", "duration", "ignored_in_edit"):
            ignored.append("edit")
        return {
            "duration": None if cell == "auto" or cell.startswith("not accepted") else numbers(cell),
            "duration_follows": "video" if cell.endswith("from the video") else None,
            "duration_ignored_in": tuple(ignored),
        }

    def _picture(self, model: str) -> dict[str, Any]:
        everywhere, t2v = self.cell(model, "aspect_ratio"), self.cell(model, "aspect_ratio_t2v")
        i2v = self.cell(model, "aspect_ratio_i2v") if everywhere == ABSENT else everywhere
        ratios = self._ratios(i2v)
        sizes = self.cell(model, "sizes")
        resolutions, default = words(self.cell(model, "resolution"))
        text_default = words(self.of("text", "resolution", "of", model=model) or "-")[1]
        return {
            "ratios": ratios,
            "ratios_t2v": self._ratios(t2v) if t2v not in (ABSENT, i2v) else (),
            "ratio_follows": "image" if everywhere.endswith("from the image") else None,
            "resolutions": resolutions,
            "resolution_default": default or text_default,
            "sizes": ()
            if sizes == ABSENT
            else tuple(
                (ratio, *(int(side) for side in size.split("x")))
                for ratio, size in zip(ratios, sizes.split(), strict=True)
            ),
        }

    def _ratios(self, cell: str) -> tuple[str, ...]:
        return words(self.says("settled", "all_ratios") if cell == "all" else cell)[0]

    def _prompt(self, model: str) -> dict[str, Any]:
        cell = self.cell(model, "text_prompt")
        need, _, longest = cell.partition(" ")
        named = [
            kind
            for kind in ("image", "video")
            if self.of("text", "text_prompt", f"references_{kind}s", model=model) is not None
        ]
        return {
            "prompt": "refused" if need == "-" else need,
            "prompt_max": int(longest or 0),
            "references": tuple(named),
        }

    def _references(self, model: str) -> dict[str, Any]:
        videos = count(self.cell(model, "videos"))
        edits = self.cell(model, "edit_video") == "yes"
        combined = self.cell(model, "combined")
        shortest, longest = self.cell(model, "video_shortest"), self.cell(model, "video_longest")
        if edits:
            longest = self.cell(model, "edit_video_longest")
        side = self.cell(model, "video_side_px")
        end = self.cell(model, "end_frame")
        if end == ABSENT and self.cell(model, "keyframe_end") != ABSENT:
            end = "endFrameAssetId"
        return {
            "images": count(self.cell(model, "images")),
            "videos": range(2) if edits else videos,
            "combined_max": None if combined == ABSENT else int(combined),
            "video_seconds": None
            if longest == ABSENT
            else range(0 if shortest == ABSENT else int(shortest), int(longest) + 1),
            "video_side_max_px": None if side == ABSENT else int(side),
            "end_frame": {"yes": "imageAssetId2", "-": "refused", ABSENT: "refused"}.get(end, end),
            "edit_images_max": int(self.cell(model, "edit_images")) if edits else None,
        }

    def _shots(self, model: str) -> dict[str, Any]:
        cell = self.cell(model, "multishot")
        if cell in (ABSENT, "-"):
            return dict.fromkeys(("shots", "shot_seconds", "shots_seconds_max", "shot_prompt_max"))
        return {
            "shots": numbers(cell),
            "shot_seconds": numbers(self.says("text", "multishot", "seconds_each")),
            "shots_seconds_max": int(self.says("text", "multishot", "seconds_total")),
            "shot_prompt_max": int(self.says("text", "multishot", "prompt_longest")),
        }

    def _switches(self, model: str) -> dict[str, Any]:
        orientations, default = words(self.cell(model, "characterOrientation"))
        seeds = numbers(self.says("text", "seed", "range"))
        silent = "never" if self.says("settled", "audio_dash_is_silent") else "refused"
        audio = {"on*": "switch", "always": "always", "-": silent, ABSENT: "refused"}
        return {
            "audio": audio[self.cell(model, "audio")],
            "seed": seeds if self.cell(model, "seed") == "auto" else None,
            "explore": self.cell(model, "exploreMode") == "yes",
            "orientations": orientations,
            "orientation_default": default,
        }

    def _times(self, model: str) -> dict[str, Any]:
        total, queue, render = (self.cell(model, f"time_{what}_m") for what in ("total", "queue", "render"))
        if total == ABSENT:
            faster = model in self.says("text", "faster")
            total = self.says("text", "faster_total_m" if faster else "average_total_m")
        return {
            "total_s": seconds(total),
            "queue_s": None if queue == ABSENT else seconds(queue),
            "render_s": None if render == ABSENT else seconds(render),
        }

    def _rules(self, model: str) -> tuple[str, ...]:
        rules = []
        if self.cell(model, "keyframes_and_references") == "exclusive":
            rules.append("keyframes_exclude_references")
        if model in self.says("text", "keyframes", "end_excludes_images"):
            rules.append("end_frame_excludes_references")
        if model in self.says("settled", "workflows_exclude_each_other"):
            rules.append("workflows_exclude_each_other")
        return tuple(rules)


def numbers(cell: str) -> range | tuple[int, ...]:
    """`4..15` as a range, `5 10` as a set."""
    first, dots, last = cell.partition("..")
    return range(int(first), int(last) + 1) if dots else tuple(int(word) for word in cell.split())


def words(cell: str) -> tuple[tuple[str, ...], str | None]:
    """The members of a set, and the one with the star."""
    if cell in (ABSENT, "-", "auto") or cell.startswith("not "):
        return (), None
    members = cell.split()
    default = next((member.rstrip("*") for member in members if member.endswith("*")), None)
    return tuple(member.rstrip("*") for member in members), default


def count(cell: str) -> range:
    """How many: `0..11`, `1 required`, or none at all."""
    if cell in (ABSENT, "-"):
        return range(1)
    if match := re.fullmatch(r"(\d+) required", cell):
        return range(int(match[1]), int(match[1]) + 1)
    found = numbers(cell)
    assert isinstance(found, range), cell
    return found


def seconds(minutes: str) -> range:
    """A range of minutes, as one of seconds with both ends in it."""
    ends = [round(float(end) * 60) for end in minutes.split("..")]
    return range(ends[0], ends[-1] + 1)


def _leaves(node: Any, path: str) -> set[str]:
    if not isinstance(node, dict):
        return {path}
    return {leaf for name, inner in node.items() for leaf in _leaves(inner, f"{path}.{name}")}
