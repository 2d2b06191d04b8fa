"""Whether the sandbox takes a create: its fields judged by the catalogue, as the upstream judges them by its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from relay.core.catalogue import BUILT_IN, Catalogue, Model, parse
from relay.core.fields import ASSET_FIELDS, YESTERDAYS
from relay.core.request import check
from relay.sandbox.shapes import ID_FORM, Json

# Words in a prompt that stand for what moderation objects to: at once, or while the task runs.
MODERATED_WORD: Final = "moderate-me"
MODERATED_LATE_WORD: Final = "moderate-late"
MODERATED: Final = "The text prompt did not pass moderation. Please change it and try again."


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a create is not taken: an HTTP status and a sentence."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A create's fields, typed; `model` is None for one that only an upstream ahead of the catalogue knows."""

    fields: Json
    model: Model | None


@cache
def built_in() -> Catalogue:
    """The catalogue that comes with the package."""
    return parse(files("relay.core").joinpath(BUILT_IN).read_text(encoding="utf-8"))


def admit(fields: Any, catalogue: Catalogue, *, unchecked: bool) -> Taken | Refused:
    """Judge a create, from JSON or a form. `unchecked`: whatever the catalogue says, as an upstream ahead of it."""
    if not isinstance(fields, dict):
        return Refused(400, "The request body must be a JSON object.")
    if not unchecked and fields.get("model") not in catalogue.models:
        return Refused(400, f"Parameter model is required. Supported values: {', '.join(catalogue.models)}.")
    # The upstream ignores in silence the names that its older endpoints used.
    named = {name: value for name, value in fields.items() if name not in YESTERDAYS}
    checked = check(named, catalogue, door="dropin", mode="off" if unchecked else "strict")
    if checked.refused:
        return Refused(400, "; ".join(problem.message for problem in checked.problems))
    prompt = checked.request.get("text_prompt")
    if isinstance(prompt, str) and MODERATED_WORD in prompt:
        return Refused(422, MODERATED)
    return Taken(checked.request, checked.model)


def assets_named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that name assets, as they are."""
    return {name: fields[name] for name in ASSET_FIELDS if name in fields}


def account_of(assets: Mapping[str, Any]) -> str | Refused | None:
    """The e-mail that all asset ids name (an asset is used by the account that owns it); None without assets."""
    emails = set()
    for name, value in assets.items():
        match = ID_FORM.fullmatch(value) if isinstance(value, str) else None
        if match is None or match["kind"] != "asset":
            return Refused(400, f"Parameter {name} is not a valid assetId.")
        emails.add(match["email"])
    if len(emails) > 1:
        return Refused(400, "All assets must belong to the same account.")
    return emails.pop() if emails else None
