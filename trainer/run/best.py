"""The best validation of a run so far: what early stopping waits for, and which checkpoint final/ is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Best:
    """The lowest bound of the validations on the way, in nats a token, its step (0: none yet), and how many came after it."""

    step: int = 0
    nelbo: float = 0.0
    since: int = 0

    def add(self, step: int, nelbo: float) -> None:
        """Of one more validation."""
        if not self.step or nelbo < self.nelbo:
            self.step, self.nelbo, self.since = step, nelbo, 0
        else:
            self.since += 1
