"""Figures as the tables have them: spreads over seeds, values with errors, what a folder's model weighs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open


def overrides(**values: object) -> str:
    """As `--config_overrides` takes them."""
    return ",".join(f"{name}={value}" for name, value in values.items())


def parameters(folder: Path) -> int:
    """Numbers in a folder's weights; what is tied counts once."""
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118 - no dict


def with_error(value: float, error: float, digits: int = 2) -> str:
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


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
