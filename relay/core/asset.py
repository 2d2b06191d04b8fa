"""Asset ids: their strict form, and the account that an asset belongs to."""

import re

ASSET_ID_FORM = "user:<number>-runwayml:<account e-mail>-asset:<uuid>"

# The e-mail must not hold what ends or climbs a path segment: with `.+` in its place, `%2F..%2F..%2Faccounts%3Fx=`
# passed as one, and the id, put into a path, reached another endpoint.
_ACCOUNT = r"[^\s/?#%\\]{1,254}"
_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_ASSET_ID = re.compile(rf"user:[0-9]{{1,19}}-runwayml:({_ACCOUNT})-asset:{_UUID}")
_EMAIL = re.compile(_ACCOUNT)


def account_in(asset_id: object) -> str | None:
    """The e-mail of the account that `asset_id` names, which alone can run a job with it; None for what is no id."""
    match = _ASSET_ID.fullmatch(asset_id) if isinstance(asset_id, str) else None
    return match.group(1) if match else None


def is_email(text: str) -> bool:
    """Whether `text` could stand as the account in an id."""
    return "@" in text and _EMAIL.fullmatch(text) is not None


def example_asset_id(number: int) -> str:
    """A made-up asset id of the made-up account me@example.com; the same for the same number (0 to 9999)."""
    return f"user:1-runwayml:me@example.com-asset:00000000-0000-4000-8000-{number:012d}"
