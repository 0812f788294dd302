"""What schemathesis has to know of the control plane's API that its description has no words for."""

import json
import re

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData

# Mistakes that a document can have though it is as its schema says: of which operation, at which field, and why JSON
# Schema cannot say it. A refusal for one of these and for nothing else is right.
BEYOND_SCHEMAS = [
    ("POST /v1/keys", r"expires_at", r"expected a time in the future"),  # depends on the clock
    ("POST /v1/keys", r"limits", r"\S+ and \S+ limit the same window: .*"),  # 1/60s and 2/min: as numbers, not as texts
    ("GET /v1/keys", r"after", r"there is no such key"),  # depends on the state
]


def is_beyond_schemas(operation, mistake):
    return any(
        operation == known and re.fullmatch(field, mistake["field"]) and re.fullmatch(message, mistake["message"])
        for known, field, message in BEYOND_SCHEMAS
    )


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """False for what is no failure."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    mistakes = json.loads(response.content).get("errors", [])
    return not mistakes or not all(is_beyond_schemas(case.operation.label, mistake) for mistake in mistakes)


@schemathesis.deserializer("application/vnd.keyward.feed")
def feed_page(context, response):
    """Keyward's own form; what is in it is pinned by tests of the contract."""
    return None
