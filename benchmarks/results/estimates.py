"""Means and shares with their standard errors, and how a table shows them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

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
