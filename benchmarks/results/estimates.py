"""Means and shares with their standard errors, and how a table shows them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.evaluation.bound import Estimate


def mean(values: Sequence[float]) -> Estimate:
    """The mean of independent values; NaN of none."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(statistics.fmean(values) if values else math.nan, error)


def share(count: int, total: int) -> Estimate:
    """count / total with its binomial standard error; NaN of nothing."""
    value = count / total if total else math.nan
    return Estimate(value, math.sqrt(value * (1 - value) / total) if total else math.nan)


def shown(estimate: Estimate, digits: int = 2, factor: float = 1.0) -> str:
    """value ± error as a cell of a table; a dash where there is no value."""
    value, error = estimate.value * factor, estimate.error * factor
    if math.isnan(value):
        return "-"
    return f"{value:,.{digits}f}" + ("" if math.isnan(error) else f" ± {error:,.{digits}f}")


@dataclass(frozen=True)
class Spread:
    """One figure of runs that differ in the seed alone."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def half(self) -> float:
        """Half of what lies between the least and the greatest."""
        return (max(self.values) - min(self.values)) / 2

    def text(self, digits: int, signed: bool = False) -> str:
        return f"{self.mean:{'+' if signed else ''}.{digits}f} ± {self.half:.{digits}f}"
