"""How much work the engine gets done in a second of being busy."""

from __future__ import annotations

import math

MEMORY_S = 30.0
"""Busy seconds after which what was measured counts for a third."""

WARM_UP = 3
"""Steps that are not measured: the first ones allocate, compile, load."""


LONGEST_S = 3.0
"""A step that takes longer counts as one that takes this, and gets as much done a second: the machine may have been asleep,
and one such step should not be remembered for minutes."""


class Rate:
    """Token passes a second, as they are retired: done, or found not to be needed.

    Args:
        prior: what holds until something was measured; it then weighs as much as one second.
    """

    def __init__(self, prior: float) -> None:
        self._work, self._seconds = prior, 1.0
        self._seen = 0

    def observe(self, work: float, seconds: float) -> None:
        """So much was retired by a step that took so long."""
        self._seen += 1
        if self._seen > WARM_UP:
            counted = min(1.0, LONGEST_S / max(seconds, 1e-9))
            work, seconds = work * counted, seconds * counted
            kept = math.exp(-seconds / MEMORY_S)
            self._work, self._seconds = kept * self._work + work, kept * self._seconds + seconds

    @property
    def per_s(self) -> float:
        return max(self._work / self._seconds, 1e-3)
