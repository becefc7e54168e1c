"""The arithmetic of measurements: percentiles, arrival times, shares of a window."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The value at `percent` in [0, 100], linear between neighbours, as numpy's default; NaN without values."""
    if not values:
        return math.nan
    ranked = sorted(values)
    place = (len(ranked) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    """The 50th percentile; NaN without values."""
    return percentile(values, 50)


def poisson_times(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrivals in [0, seconds) of a Poisson process of `rate` a second, increasing; the same for the same seed."""
    generator = random.Random(seed)
    times: list[float] = []
    now = generator.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += generator.expovariate(rate)
    return times


def credit(points: Sequence[tuple[float, float]], start: float, end: float) -> float:
    """How much of a quantity that grows in steps was reached within (start, end].

    Args:
        points: (time, value reached then), both increasing; before the first point the value is 0.
    """

    def reached(time: float) -> float:
        return max((value for at, value in points if at <= time), default=0.0)

    return reached(end) - reached(start)
