"""Whether the sandbox takes a create: its fields judged by the catalogue, as the upstream judges them by its own."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from relay.core.asset import account_in
from relay.core.catalogue import BUILT_IN, Catalogue, parse
from relay.core.fields import ASSET_FIELDS, YESTERDAYS
from relay.core.request import Checked, check
from relay.sandbox.answer import refusal

# Words in a prompt that stand for what moderation objects to: at once, or while the task runs.
MODERATED_WORD: Final = "moderate-me"
MODERATED_LATE_WORD: Final = "moderate-late"
MODERATED: Final = "The text prompt did not pass moderation. Please change it and try again."


@cache
def built_in() -> Catalogue:
    """The catalogue that comes with the package."""
    return parse(files("relay.core").joinpath(BUILT_IN).read_text(encoding="utf-8"))


def admit(fields: Any, catalogue: Catalogue, *, unchecked: bool) -> Checked:
    """Judge a create, from JSON or a form; raises Refusal. `unchecked`: as an upstream ahead of the catalogue does."""
    if not isinstance(fields, dict):
        raise refusal(400, "The request body must be a JSON object.")
    # The upstream ignores in silence the names that its older endpoints used.
    named = {name: value for name, value in fields.items() if name not in YESTERDAYS}
    checked = check(named, catalogue, door="dropin", mode="off" if unchecked else "strict")
    if checked.model is None and not unchecked:
        raise refusal(400, f"Parameter model is required. Supported values: {', '.join(catalogue.models)}.")
    if checked.refused:
        raise refusal(400, "; ".join(problem.message for problem in checked.problems))
    if MODERATED_WORD in str(checked.request.get("text_prompt", "")):
        raise refusal(422, MODERATED)
    return checked


def owner_of(fields: Mapping[str, Any]) -> str | None:
    """The account that all assets of a create name, for only that one can use them; None without assets."""
    emails = set()
    for name in filter(fields.__contains__, ASSET_FIELDS):
        email = account_in(fields[name])
        if email is None:
            raise refusal(400, f"Parameter {name} is not a valid assetId.")
        emails.add(email)
    if len(emails) > 1:
        raise refusal(400, "All assets must belong to the same account.")
    return emails.pop() if emails else None
