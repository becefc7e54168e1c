"""One request until the server takes it: who is told that it is busy comes again when it says so."""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx2

from .effects import Open, Pause, Send, Steps
from .errors import InvalidEvent, SampleError
from .events import parse_error

BUSY = {429, 503}
"""Answers of a server that has not begun with the request and may take it later."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Where a busy server does not say when to come again; doubled from try to try, give or take a half."""


@dataclass(frozen=True)
class Patience:
    """How often a request is sent again to a busy server, and for how many seconds in all; a pause that would end after
    them is not begun."""

    max_retries: int = 8
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        if self.max_retries < 0 or not self.max_wait_s >= 0:
            name, value = (
                ("max_retries", self.max_retries) if self.max_retries < 0 else ("max_wait_s", self.max_wait_s)
            )
            raise ValueError(f"{name} must be >= 0, got {value}")


def ask(request: Send | Open, patience: Patience) -> Steps[httpx2.Response]:
    """The server's answer. Raises SampleError when it refuses, or is still busy at the end of all patience."""
    waited_s = 0.0
    for tried in range(patience.max_retries + 1):
        response: httpx2.Response = yield request
        if response.is_success:
            return response
        error = refusal(response)
        own_s = min(FIRST_PAUSE_S * 2.0 ** min(tried, 60), LONGEST_PAUSE_S) * random.uniform(0.5, 1.5)
        pause_s = error.retry_after_s or own_s
        waited_s += pause_s
        if error.code not in BUSY or tried == patience.max_retries or waited_s > patience.max_wait_s:
            break
        yield Pause(pause_s)
    raise error


def refusal(response: httpx2.Response) -> SampleError:
    """The exception of an answer that is none."""
    try:
        error = parse_error(response.text)
    except InvalidEvent:
        # Not our server's words: a proxy before it, or another server altogether.
        status = f"HTTP {response.status_code} {response.reason_phrase} from {response.request.url}"
        error = SampleError(status, "http_error", code=response.status_code)
    error.code = error.code or response.status_code
    error.retry_after_s = retry_after(response.headers.get("Retry-After", ""))
    return error


def retry_after(header: str) -> float | None:
    """The seconds that a `Retry-After` asks for, as a number or as a date; None if there is nothing to read in it."""
    with contextlib.suppress(ValueError):
        seconds = float(header)
        return max(seconds, 0.0) if seconds < float("inf") else None
    with contextlib.suppress(ValueError):
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    return None
