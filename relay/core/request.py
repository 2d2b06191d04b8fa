"""Judges a create request against the catalogue: what it asks for, which rules it breaks, whether that refuses it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from relay.core.asset import ASSET_ID_FORM, account_in, example_asset_id, is_email
from relay.core.catalogue import Catalogue, Limits, Model
from relay.core.fields import ASSET_FIELDS, FIELDS, REFUSED
from relay.core.intake import Intake, take_in
from relay.core.rules import FIELD_RULES, Asked, too_long
from relay.core.wording import closest, either, said, shown
from relay.core.workflows import JOINT_RULES, NAMED_RULES
from relay.errors import Problem

Door = Literal["native", "dropin"]
Mode = Literal["strict", "warn", "off"]

MODEL_NAME_MAX = 200
EXAMPLE_PROMPT = "A cinematic aerial shot of a coastal city at golden hour"


@dataclass(frozen=True, slots=True)
class Checked:
    """A judged request. `request` is what to store and send on: typed, without nulls; meaningless when `refused`.

    `problems` are all that were found, also those that `warn` lets through. `account` is the e-mail of the account that
    must run the job, pinned by `email` or by the assets. `model` is None where the catalogue does not know it.
    """

    request: dict[str, object]
    problems: tuple[Problem, ...]
    refused: bool
    account: str | None
    model: Model | None


def check(fields: object, catalogue: Catalogue, *, door: Door, mode: Mode = "strict", textual: bool = False) -> Checked:
    """Judge `fields`, a JSON object as parsed (anything else is refused) or a form's names and texts (`textual`).

    The native door refuses what it does not know; the drop-in door passes unknown models and fields on, reads numbers
    and flags out of text, and refuses yesterday's names. `strict` refuses on any problem, `warn` only on what cannot be
    used (wrong types, unusable text, too much of it), `off` does not judge: any scalar passes. The fields that the
    relay itself acts on keep their types in every mode. `priority` and `deadline` are no fields of the upstream: the
    native door takes them out first. Never raises for JSON input.
    """
    if not isinstance(fields, Mapping):
        problem = Problem("", "object", f"a request must be a JSON object, not {said(fields)}", shown(fields))
        return Checked({}, (problem,), True, None, None)
    name = fields.get("model")
    model = catalogue.models.get(name) if isinstance(name, str) else None
    intake = take_in(
        fields,
        lenient=textual or door == "dropin",
        relaxed=mode == "off" or (door == "dropin" and model is None and bool(name)),
        strangers=door == "dropin",
        keyframes=model is not None and model.keyframes,
    )
    faults = [*intake.faults, *_model_faults(intake)]
    problems: list[Problem] = []
    if mode != "off":
        asked = Asked(intake.values, frozenset(intake.unreadable))
        problems += _unknown_model(intake, catalogue, door)
        problems += intake.misnamed
        if model is not None:
            rules = (*FIELD_RULES, *JOINT_RULES, *(NAMED_RULES[name] for name in model.rules))
            problems += (problem for rule in rules for problem in rule(asked, model))
        problems += _general_problems(asked, catalogue.limits)
        problems += _asset_problems(asked, door)
        problems += _account_problems(asked)
    refused = bool(faults) or (mode == "strict" and bool(problems))
    return Checked(intake.values, (*faults, *problems), refused, _account(intake.values), model)


def advice(catalogue: Catalogue) -> str:
    """How to submit what was refused all the same; the last words of a refusal at the drop-in door."""
    return (
        f"The relay's catalogue is dated {catalogue.dated}; if the upstream takes this by now, "
        "RELAY_CATALOGUE can say so, and RELAY_VALIDATION=warn submits anyway."
    )


def example_request(model: Model) -> dict[str, object]:
    """The smallest request that `model` takes, with a prompt where it takes one; the asset ids are made up."""
    request: dict[str, object] = {"model": model.name}
    if model.prompt != REFUSED:
        request["text_prompt"] = EXAMPLE_PROMPT[: model.prompt_max]
    needed = (*model.image_slots[: model.images.first], *model.video_slots[: model.videos.first])
    return request | {slot: example_asset_id(number) for number, slot in enumerate(needed, 1)}


def _model_faults(intake: Intake) -> Iterator[Problem]:
    if "model" in intake.unreadable:
        return
    name = intake.values.get("model")
    if not isinstance(name, str) or not name.strip():
        yield Problem("model", "required", "model is required: see GET /v1/models", name)
    elif len(name) > MODEL_NAME_MAX:
        yield too_long("model", name, MODEL_NAME_MAX, "a model's name")


def _unknown_model(intake: Intake, catalogue: Catalogue, door: Door) -> Iterator[Problem]:
    name = intake.values.get("model")
    if door == "dropin" or not isinstance(name, str) or not name.strip() or name in catalogue.models:
        return
    meant = closest(name, catalogue.models)
    hint = f"did you mean {meant}? The models are" if meant else "the models are"
    sentence = f"model {said(name)} is not known: {hint} {either(catalogue.models)}"
    yield Problem("model", "known_model", sentence, shown(name), list(catalogue.models))


def _general_problems(asked: Asked, limits: Limits) -> Iterator[Problem]:
    jobs = asked.values.get("maxJobs")
    if jobs is not None and jobs not in limits.max_jobs:
        sentence = f"maxJobs {said(jobs)} is out of range: whole numbers from {limits.max_jobs}"
        yield Problem("maxJobs", "range", sentence, shown(jobs), limits.max_jobs.as_json())
    ref = asked.text("replyRef")
    if ref is not None and len(ref) > limits.reply_ref_max:
        yield too_long("replyRef", ref, limits.reply_ref_max, "the upstream")
    url = asked.text("replyUrl")
    if url is None:
        return
    # The address itself is not repeated: it may hold its owner's secret, and problems are shown to others.
    if len(url) > limits.reply_url_max:
        sentence = f"replyUrl has {len(url)} characters (Unicode code points): at most {limits.reply_url_max} are taken"
        yield Problem("replyUrl", "max_length", sentence, None, limits.reply_url_max)
    if not url.lower().startswith(("https://", "http://")):
        yield Problem("replyUrl", "url", "replyUrl must be an address that begins with https:// or http://")


def _asset_problems(asked: Asked, door: Door) -> Iterator[Problem]:
    if door == "dropin":
        return  # Whatever the upstream takes for an id there is its own to judge.
    for name in ASSET_FIELDS:
        value = asked.text(name)
        if value is not None and account_in(value) is None:
            sentence = f"{name} must be an asset id of the form {ASSET_ID_FORM}, as POST /assets returns it"
            yield Problem(name, "asset_id", sentence, shown(value), ASSET_ID_FORM)


def _account_problems(asked: Asked) -> Iterator[Problem]:
    """An asset lives in one account and only that one can render with it."""
    email = asked.text("email")
    if email is not None and not is_email(email):
        sentence = "email must be the e-mail of an upstream account: an @, and none of space / ? # % \\"
        yield Problem("email", "email", sentence, shown(email))
        email = None
    owners = list(_accounts_of_assets(asked.values))
    if not owners:
        return
    first, owner = owners[0]
    for name, account in owners[1:]:
        if account.casefold() != owner.casefold():
            sentence = f"{name} belongs to {account}, {first} to {owner}: one account must have all assets of a request"
            yield Problem(name, "one_account", sentence, account, owner)
    if email is not None and email.casefold() != owner.casefold():
        sentence = f"email {email} contradicts {first}, which belongs to {owner}: an asset renders in its own account"
        yield Problem("email", "one_account", sentence, shown(email), owner)


def _account(values: Mapping[str, object]) -> str | None:
    """The assets' spelling of the account wins where `email` differs from it in capitals only."""
    email = values.get("email")
    of_assets = next((account for _, account in _accounts_of_assets(values)), None)
    if isinstance(email, str) and (of_assets is None or email.casefold() != of_assets.casefold()):
        return email
    return of_assets


def _accounts_of_assets(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """(field, account) for every asset, those in unknown fields too: tomorrow's models may take assets in new ones."""
    for name, value in values.items():
        if (name in ASSET_FIELDS or name not in FIELDS) and (account := account_in(value)) is not None:
            yield name, account
