"""JSON into frozen dataclasses, by their type hints.

A field that a newer server adds is ignored; one that is missing or of another type raises `InvalidEvent`, which names it.
"""

from __future__ import annotations

import functools
import json
import sys
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from .errors import InvalidEvent

LARGEST: dict[type, float] = {int: 2**63 - 1, float: sys.float_info.max}


def load_object(name: str, data: str) -> dict[str, Any]:
    """The JSON object in `data`. Raises InvalidEvent, which calls it `name`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"{name} must be JSON, got {_quote(data)}") from error
    return load_mapping(value, name)


def load_mapping(value: object, where: str) -> dict[str, Any]:
    """`value` itself, which must be an object, whatever is in it."""
    if not isinstance(value, dict):
        raise InvalidEvent(f"{where} must be an object, got {_quote(value)}")
    return value


def _quote(value: object, longest: int = 100) -> str:
    text = repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def convert(value: object, kind: Any, where: str) -> Any:
    """`value`, as it came out of JSON, as an instance of the type hint `kind`; `where` is its name in messages."""
    if is_dataclass(kind):
        return _convert_object(value, kind, where)
    if get_origin(kind) is types.UnionType:
        inner = next(argument for argument in get_args(kind) if argument is not types.NoneType)
        return None if value is None else convert(value, inner, where)
    if get_origin(kind) in (list, tuple):
        return _convert_array(value, kind, where)
    if get_origin(kind) is dict:
        return load_mapping(value, where)
    return _check_scalar(value, kind, where)


def _check_scalar(value: Any, kind: type, where: str) -> Any:
    """Numbers are bounded, so that whatever is reckoned with them stays one: JSON has infinities, and integers of any size."""
    accepted = (int, float) if kind is float else (kind,)
    noun = {int: "an integer", float: "a number", str: "a string"}[kind]
    if type(value) not in accepted:
        raise InvalidEvent(f"{where} must be {noun}, got {_quote(value)}")
    if kind is not str and not abs(value) <= LARGEST[kind]:
        raise InvalidEvent(f"{where} must be {noun} of 64 bits, got {_quote(value)}")
    return value


def _convert_object(value: object, kind: Any, where: str) -> Any:
    given = load_mapping(value, where)
    hints = _hints(kind)
    arguments = {}
    for field in fields(kind):
        if field.name in given:
            arguments[field.name] = convert(given[field.name], hints[field.name], f"{where}.{field.name}")
        elif field.default is MISSING:
            raise InvalidEvent(f"{where}.{field.name} is missing")
    return kind(**arguments)


def _convert_array(value: object, kind: Any, where: str) -> Any:
    kinds = get_args(kind)
    if not isinstance(value, list):
        raise InvalidEvent(f"{where} must be an array, got {_quote(value)}")
    if get_origin(kind) is list:
        return [convert(item, kinds[0], f"{where}[{index}]") for index, item in enumerate(value)]
    if len(value) != len(kinds):
        raise InvalidEvent(f"{where} must be an array of {len(kinds)}, got {_quote(value)}")
    return tuple(convert(item, kind, where) for item, kind in zip(value, kinds, strict=True))


_hints: Callable[[type], dict[str, Any]] = functools.cache(get_type_hints)
