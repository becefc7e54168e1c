"""The running numbers of a log line."""

from __future__ import annotations

import time


class Meter:
    """The mean loss and the speed since the last reading."""

    def __init__(self) -> None:
        self.nats, self.tokens, self.seconds, self.since = 0.0, 0, 0.0, time.perf_counter()

    def add(self, nats: float, tokens: int) -> None:
        now = time.perf_counter()
        self.nats, self.tokens = self.nats + nats, self.tokens + tokens
        self.seconds, self.since = self.seconds + now - self.since, now

    def restart_clock(self) -> None:
        """Leaves out the time since the last step: it went into validating or saving."""
        self.since = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Nats a token and tokens a second; starts anew."""
        values = self.nats / self.tokens, self.tokens / self.seconds
        self.nats, self.tokens, self.seconds = 0.0, 0, 0.0
        return values
