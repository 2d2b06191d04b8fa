"""Asks Python's official library which of the webhooks on stdin are good; prints a list of true and false."""

import base64
import json
import sys
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


def is_good(one: dict[str, Any]) -> bool:
    try:
        Webhook(one["secret"]).verify(base64.b64decode(one["body"]), one["headers"])
    except WebhookVerificationError:
        return False
    return True


print(json.dumps([is_good(one) for one in json.load(sys.stdin)]))
