"""Checks that the SDK scripts share. A script exits with 0 if all checks pass, else with a message."""

import os
import time
from collections.abc import Callable
from typing import Any, NoReturn

KEY = os.environ["KEYWARD_SDK_KEY"]
URL = os.environ["KEYWARD_SDK_URL"]
# How long a limited client may take to get through.
LIMIT_S = 60


def fail(message: str) -> NoReturn:
    raise SystemExit(message)


def equal(got: Any, wanted: Any, what: str) -> None:
    if got != wanted:
        fail(f"{what}: expected {wanted!r}, got {got!r}")


def refused(ask: Callable[[], Any], error: type[Exception]) -> Any:
    """Calls `ask`, which must raise this type of error, and returns the error."""
    try:
        answer = ask()
    except error as raised:
        # The request id, which support needs, if the SDK exposes it.
        if not getattr(raised, "request_id", "x"):
            fail(f"{raised!r} has no request_id")
        return raised
    except Exception as raised:
        fail(f"expected {error.__name__}, got {raised!r}")
    fail(f"expected {error.__name__}, got the answer {answer!r}")


def limited(ask: Callable[[], Any], error: type[Exception]) -> Any:
    """Calls `ask` until the limit of one request per window is reached, and returns the error."""
    try:
        ask()
    except error as raised:
        return raised
    # A window can end between two requests, but not after each of three.
    try:
        ask()
    except error as raised:
        return raised
    return refused(ask, error)


class Exchanges:
    """Every exchange of a client's HTTP layer: the time of sending, the status, the `Retry-After`."""

    def __init__(self) -> None:
        self.sent: list[float] = []
        self.answered: list[tuple[float, int, str | None]] = []
        self.hooks = {
            "request": [lambda _: self.sent.append(time.monotonic())],
            "response": [
                lambda response: self.answered.append(
                    (time.monotonic(), response.status_code, response.headers.get("retry-after"))
                )
            ],
        }

    def retried(self, ask: Callable[[], Any]) -> None:
        """Calls `ask` until a request was limited and retried; the retry must wait for `Retry-After` and succeed."""
        deadline = time.monotonic() + LIMIT_S
        while not (429 in (status for _, status, _ in self.answered)):
            if time.monotonic() > deadline:
                fail(f"expected a limited request, got {self.answered}")
            ask()
        refusal = next(n for n, (_, status, _) in enumerate(self.answered) if status == 429)
        refused_at, _, retry_after = self.answered[refusal]
        if retry_after is None or not retry_after.isdigit() or int(retry_after) < 1:
            fail(f"expected Retry-After in seconds, got {retry_after!r}")
        waited = self.sent[refusal + 1] - refused_at
        if waited < int(retry_after):
            fail(f"expected the retry after {retry_after} s (Retry-After), got it after {waited} s")
        equal(self.answered[refusal + 1][1], 200, "the status of the retry")
