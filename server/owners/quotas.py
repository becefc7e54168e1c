"""What a key may ask for in a second: a bucket of work for each holder, filled steadily, emptied by its requests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ..errors import rate_limited
from .owner import Owner

BURST_S = 60.0
"""Seconds of its rate that a holder may save up, and then ask for at once."""

ROUNDING = 1e-9
"""Of a full bucket: who waited as it was told is not sent away for the last digit of a sum."""


class Quotas:
    """Called by the event loop alone.

    A request that is dearer than a full bucket is let through a full one, and its holder then waits until the debt is
    paid: in the long run nobody gets more than the rate, and nothing that the server allows is out of reach.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # as many as there are keys

    def take(self, owner: Owner, work: float) -> None:
        """Charge `owner` for a request of `work` token passes.

        Raises:
            APIError: 429, with the seconds after which this request would be let through.
        """
        rate = owner.work_per_s
        if rate is None:
            return
        full, now = rate * BURST_S, self._clock()
        level, since = self._buckets.get(owner.id, (full, now))
        level = min(full, level + (now - since) * rate)
        missing = min(work, full) - level
        if missing > full * ROUNDING:
            raise rate_limited(owner.name, rate, math.ceil(missing / rate))
        self._buckets[owner.id] = level - work, now
