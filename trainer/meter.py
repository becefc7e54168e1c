"""The running numbers of a log line."""

from __future__ import annotations

import time


class Meter:
    """The mean loss and NELBO and the speed since the last reading."""

    def __init__(self) -> None:
        self.loss, self.nelbo, self.tokens, self.seconds, self.since = 0.0, 0.0, 0, 0.0, time.perf_counter()

    def add(self, loss: float, nelbo: float, tokens: int) -> None:
        """Of one step, summed over its tokens."""
        now = time.perf_counter()
        self.loss, self.nelbo, self.tokens = self.loss + loss, self.nelbo + nelbo, self.tokens + tokens
        self.seconds, self.since = self.seconds + now - self.since, now

    def restart_clock(self) -> None:
        """Leaves out the time since the last step: it went into validating or saving."""
        self.since = time.perf_counter()

    def read(self) -> tuple[float, float, float]:
        """Loss a token, NELBO a token and tokens a second; starts anew."""
        values = self.loss / self.tokens, self.nelbo / self.tokens, self.tokens / self.seconds
        self.loss, self.nelbo, self.tokens, self.seconds = 0.0, 0.0, 0, 0.0
        return values
