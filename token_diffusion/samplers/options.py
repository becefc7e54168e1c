"""What one decoder may be asked and others may not: declared once, beside the decoder, in the fields of a dataclass.

From these declarations follow the fields of requests and their schema, the flags of the shell, what `/models` says, and the
one check of every value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..diffusion.values import check_bool, check_number
from ..errors import ParameterError, one_of

TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}
"""What JSON Schema calls them."""

SMALLEST, LARGEST = -(2**31), 2**31 - 1
"""Of integers without other bounds; sums and products of two of them fit in the rows."""


def option(
    default: Any,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> Any:
    """A field of an `Options` class. minimum, maximum: inclusive; above: exclusive."""
    bounds = {"minimum": minimum, "maximum": maximum, "above": above}
    return dataclasses.field(default=default, metadata={"description": description, **bounds})


@dataclass(frozen=True)
class Option:
    """A declared option. type: int, float, bool or str; choices: of a str; nullable: whether None is a value."""

    name: str
    type: type
    default: Any
    description: str
    choices: tuple[str, ...] = ()
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None

    @property
    def bounds(self) -> str:
        """In words: "in [0, 1]"; "" where there are none."""
        low = self.minimum if self.above is None else self.above
        if low is None:
            return "" if self.maximum is None else f"<= {_plain(self.maximum)}"
        if self.maximum is None:
            return f"{'>=' if self.above is None else '>'} {_plain(low)}"
        return f"in {'[' if self.above is None else '('}{_plain(low)}, {_plain(self.maximum)}]"

    @property
    def figures(self) -> dict[str, Any]:
        """As the shell and `/models` tell it, in JSON."""
        limits = {"minimum": self.minimum, "exclusive_minimum": self.above, "maximum": self.maximum}
        own = {"name": self.name, "type": TYPES[self.type], "default": self.default, "description": self.description}
        return {**own, **limits, "choices": list(self.choices) or None}

    def check(self, value: Any) -> None:
        """Raises `ParameterError` for a value of another type, or out of bounds."""
        if value is None and self.nullable:
            return
        if self.choices:
            if value not in self.choices:
                raise ParameterError(self.name, f"be {one_of(self.choices)}", value)
        elif self.type is bool:
            check_bool(self.name, value)
        else:
            if self.type is int and type(value) is not int:
                raise ParameterError(self.name, "be an integer", value)
            check_number(self.name, value)
            low = self.minimum is None or value >= self.minimum
            if not (
                low and (self.above is None or value > self.above) and (self.maximum is None or value <= self.maximum)
            ):
                raise ParameterError(self.name, f"be {self.bounds}", value)


def _plain(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def either(one: Option, other: Option) -> Option:
    """One that allows what either does: decoders that have an option of one name may have bounds and defaults of their own.

    Its default is None where theirs differ.
    """
    lows = [(each.minimum, each.above) for each in (one, other)]
    free = (None, None) in lows
    # Of two equal bounds the inclusive one allows more.
    minimum, above = (
        (None, None) if free else min(lows, key=lambda low: (low[0] if low[1] is None else low[1], low[0] is None))
    )
    highs = [each.maximum for each in (one, other) if each.maximum is not None]
    return dataclasses.replace(
        one,
        default=one.default if one.default == other.default else None,
        choices=tuple(dict.fromkeys((*one.choices, *other.choices))),
        nullable=one.nullable or other.nullable,
        minimum=minimum,
        above=above,
        maximum=max(highs) if len(highs) == 2 else None,
    )


@dataclass(frozen=True)
class Options:
    """A decoder without options; those with some are subclasses. Raises `ParameterError` when a value is outside its range."""

    def __post_init__(self) -> None:
        for each in declared(type(self)).values():
            each.check(getattr(self, each.name))


def declared(options: type[Options]) -> Mapping[str, Option]:
    """Its options by their names, in their order."""
    kind: Any = options  # mypy would have its instances hashable
    return _declared(kind)


@cache
def _declared(options: Any) -> Mapping[str, Option]:
    hints = get_type_hints(options)
    return {field.name: _option(field, hints[field.name]) for field in dataclasses.fields(options)}


def _option(field: dataclasses.Field[Any], hint: Any) -> Option:
    """A field's annotation is a type, or a `Literal` of strings, or one of them or None."""
    parts = get_args(hint) if NoneType in get_args(hint) else (hint,)
    (kind,) = (part for part in parts if part is not NoneType)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    own = str if choices else kind
    limits = {"minimum": SMALLEST, "maximum": LARGEST} if own is int else {}
    told: Any = {name: limits.get(name) if value is None else value for name, value in field.metadata.items()}
    return Option(field.name, own, field.default, choices=choices, nullable=len(parts) > 1, **told)
