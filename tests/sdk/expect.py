"""What the scripts beside this one ask of the SDKs. A script ends with 0 if all of it held, or else says what did not."""

import os
import time
from collections.abc import Callable
from typing import Any, NoReturn

KEY = os.environ["KEYWARD_SDK_KEY"]
URL = os.environ["KEYWARD_SDK_URL"]
# How long a server may take to let a client in again.
LIMIT_S = 60


def fail(message: str) -> NoReturn:
    raise SystemExit(message)


def equal(got: Any, wanted: Any, what: str) -> None:
    if got != wanted:
        fail(f"{what}: {got!r}, not {wanted!r}")


def refused(ask: Callable[[], Any], error: type[Exception]) -> Any:
    """The error of this type that asking ends with."""
    try:
        answer = ask()
    except error as raised:
        # The id of the request, which support asks for; of an SDK that tells it.
        if not getattr(raised, "request_id", "x"):
            fail(f"{raised!r} has no request_id")
        return raised
    except Exception as raised:
        fail(f"{error.__name__} was to be raised, not {raised!r}")
    fail(f"{error.__name__} was to be raised, but there was an answer: {answer!r}")


def limited(ask: Callable[[], Any], error: type[Exception]) -> Any:
    """The error that asking ends with once the limit of one request in a window is reached."""
    try:
        ask()
    except error as raised:
        return raised
    # A window may have ended between two requests, but not between each two of three.
    try:
        ask()
    except error as raised:
        return raised
    return refused(ask, error)


class Exchanges:
    """Every exchange that a client's HTTP layer made: when it was sent, its status, its `Retry-After`."""

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
        """Asks until a request was refused and repeated: not before `Retry-After` said so, and with an answer."""
        deadline = time.monotonic() + LIMIT_S
        while not (429 in (status for _, status, _ in self.answered)):
            if time.monotonic() > deadline:
                fail(f"no request was limited: {self.answered}")
            ask()
        refusal = next(n for n, (_, status, _) in enumerate(self.answered) if status == 429)
        refused_at, _, retry_after = self.answered[refusal]
        if retry_after is None or not retry_after.isdigit() or int(retry_after) < 1:
            fail(f"Retry-After is {retry_after!r}")
        waited = self.sent[refusal + 1] - refused_at
        if waited < int(retry_after):
            fail(f"the retry came after {waited} s, and Retry-After was {retry_after}")
        equal(self.answered[refusal + 1][1], 200, "the status of the retry")
