"""Flags as commands take them."""

from __future__ import annotations

from collections.abc import Mapping


def overrides(**values: object) -> str:
    """As `--config_overrides` takes them."""
    return ",".join(f"{name}={value}" for name, value in values.items())


def words(flags: Mapping[str, object]) -> list[object]:
    """Flags as a command line has them; True for one that takes no value."""
    return [
        word for name, value in flags.items() for word in ([f"--{name}"] if value is True else [f"--{name}", value])
    ]
