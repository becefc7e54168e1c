"""Flags as commands take them, and figures as tables show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def overrides(**values: object) -> str:
    """As `--config_overrides` takes them."""
    return ",".join(f"{name}={value}" for name, value in values.items())


def words(flags: Mapping[str, object]) -> list[object]:
    """Flags as a command line has them; True for one that takes no value."""
    return [
        word for name, value in flags.items() for word in ([f"--{name}"] if value is True else [f"--{name}", value])
    ]


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
