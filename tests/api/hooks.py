"""Details of the control plane's API that its OpenAPI description cannot express, for schemathesis."""

import itertools
import json
import os
import re

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData

# Errors of documents that are valid by their schema: the operation, the field, the message, and the reason why JSON Schema
# cannot express the constraint. A refusal with only such errors is accepted.
BEYOND_SCHEMAS = [
    ("POST /v1/keys", r"expires_at", r"expected a time in the future"),  # depends on the clock
    ("POST /v1/keys", r"limits", r"\S+ and \S+ limit the same window: .*"),  # 1/60s and 2/min: equal as values, not as strings
    ("PATCH /v1/keys/{id}", r"expires_at", r"expected a time in the future"),
    ("POST /api-keys", r"expires_at", r"expected a time in the future"),
    ("PATCH /v1/keys/{id}", r"limits", r"\S+ and \S+ limit the same window: .*"),
    ("PUT /v1/plans/{id}", r"limits", r"\S+ and \S+ limit the same window: .*"),
    ("GET /v1/keys", r"after", r"key not found"),  # depends on the state
    ("GET /api-keys", r"after", r"key not found"),
    ("GET /v1/tokens", r"after", r"token not found"),
    ("GET /v1/sessions", r"after", r"session not found"),
    ("PATCH /v1/keys/{id}", r"metadata", r"the key would have more than .*"),
    ("GET /v1/usage", r"from", r"expected a time .*"),  # one parameter depends on another
    ("GET /v1/keys/{id}/usage", r"from", r"expected a time .*"),
    ("GET /v1/usage/reports", r"from", r"expected a time .*"),
    ("GET /v1/keys/{id}/why", r"client", r"expected an IP address"),  # no format for either version
    ("POST /v1/leaks", r"keys\[\d+\]", r"expected a string that is not empty"),  # only invisible characters
    ("POST /v1/keys/import", r".*", r".*"),  # the format of a whole file
]

# Problems without fields: the operation, the problem, and its detail.
OTHER_PROBLEMS = [
    # The key was used with a different request before.
    ("POST /v1/keys", "urn:keyward:problem:idempotency_key_reused", r".*"),
    ("POST /v1/keys/{id}/rotate", "urn:keyward:problem:idempotency_key_reused", r".*"),
    # One field depends on another.
    ("POST /v1/edge/usage", "urn:keyward:problem:invalid_usage", r".* has more credits than its allowed requests can cost, .*"),
]


# No schema describes the form of secrets, and schemathesis reuses strings from responses.
LOOKS_LIKE_A_SECRET = "looks like a secret, "


def is_beyond_schemas(operation, mistake):
    return mistake["message"].startswith(LOOKS_LIKE_A_SECRET) or any(
        operation == known and re.fullmatch(field, mistake["field"]) and re.fullmatch(message, mistake["message"])
        for known, field, message in BEYOND_SCHEMAS
    )


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Returns False for a response that is not a failure."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    problem = json.loads(response.content)
    if any(
        (case.operation.label, problem["type"]) == (operation, known) and re.fullmatch(detail, problem["detail"])
        for operation, known, detail in OTHER_PROBLEMS
    ):
        return False
    mistakes = problem.get("errors", [])
    return not mistakes or not all(is_beyond_schemas(case.operation.label, mistake) for mistake in mistakes)


@schemathesis.deserializer("application/vnd.keyward.feed")
def feed_page(context, response):
    """Keyward's own format; its content is tested in keyward-core."""
    return None


@schemathesis.serializer("application/x-ndjson", "text/csv")
def rows(context, value):
    """The value as a file."""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.deserializer("application/x-ndjson")
def exported_rows(context, response):
    """NDJSON rows; their content is tested with the control plane."""
    return response.text


@schemathesis.deserializer("text/csv")
def exported_cells(context, response):
    """The same rows as CSV."""
    return response.text


# Failed authentications are limited per address, with 429: every request comes from a different address.
ADDRESSES = (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in itertools.count(1))

# The key of self-service requests, its owner, and the existing plan; requests must not change them.
KEPT = {os.environ["KEYWARD_KEY_ID"], "user", "plan"}

# Generated versions rarely match, and generated idempotency keys repeat: most requests should match any version, and have
# a new key.
MADE_UP = itertools.cycle([False, False, False, True])
NEW = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    """Sets a request's client address, and lets requests succeed that otherwise would only by chance."""
    case.headers = {**(case.headers or {}), "x-forwarded-for": next(ADDRESSES)}
    if "If-Match" in case.headers and not next(MADE_UP):
        case.headers["If-Match"] = "*"
    if re.fullmatch(r"[!#-+.-:<-\[\]-~-]{16,255}", case.headers.get("Idempotency-Key", "")) and not next(MADE_UP):
        case.headers["Idempotency-Key"] = f"key-of-request-{next(NEW):09}"
    if case.method.upper() != "GET" and (case.path_parameters or {}).get("id") in KEPT:
        case.path_parameters["id"] = "none"
    if isinstance(case.body, dict) and re.fullmatch("[!-~]{1,128}", str(case.body.get("plan") or "")):
        case.body["plan"] = "plan"
    if case.operation.label == "POST /v1/edge/usage":
        case.body = whole(case.body)


def whole(value):
    """Replaces 1.0 by 1: an integer to JSON Schema, but edges never send it, and the server rejects it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole(field) for name, field in value.items()}
    return [whole(element) for element in value] if isinstance(value, list) else value
