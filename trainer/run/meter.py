"""The running numbers of a log line."""

from __future__ import annotations

import time
from collections.abc import Mapping


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

    def state_dict(self) -> dict[str, float]:
        """What has been added since the last reading."""
        return {"loss": self.loss, "nelbo": self.nelbo, "tokens": self.tokens, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """What `state_dict` gave."""
        self.loss, self.nelbo, self.seconds = state["loss"], state["nelbo"], state["seconds"]
        self.tokens = int(state["tokens"])
