"""Keys of a config.json by which a network would be another than the one that is run here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ParameterError

Keys = Mapping[str, tuple[Any, list[Any]]]
"""By a key what its value is where it is not there, and the values that are run, the usual one first."""


def check_architecture(config: Mapping[str, Any], name: str) -> None:
    """Raises `ParameterError` where the model is of another class than `name`."""
    found = config.get("architectures") or [name]
    if not isinstance(found, list) or name not in found:
        raise ParameterError("architectures", f"be {name}", found)


def check_run(config: Mapping[str, Any], run: Keys) -> None:
    """Raises `ParameterError` for a value that is none of those that are run."""
    for key, (default, values) in run.items():
        if (value := config.get(key, default)) not in values:
            raise ParameterError(key, f"be {values[0]!r}", value)


def check_positive(config: Mapping[str, Any], *keys: str) -> None:
    """Raises `ParameterError` for what is no number above 0."""
    for key in keys:
        value = config[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ParameterError(key, "be a positive number", value)
