"""The samplers as fields of requests and as what `/models` says of them, both from the one table in which they are declared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from token_diffusion.samplers.catalogue import KINDS, all_options
from token_diffusion.samplers.options import TYPES, Option, declared
from token_diffusion.samplers.presets import PRESETS

from .values import Value, Whole, bounds

SAMPLER = next(iter(KINDS))
"""The default one."""

SamplerName = Annotated[str, bounds(enum=list(KINDS))]
PresetName = Annotated[str, bounds(**{"enum": list(PRESETS), "x-presets": PRESETS})]
"""What each stands for is told along, so that a form can be filled in with it."""

FIELDS: dict[type, Any] = {int: Whole, float: float, bool: bool, str: str}


def option_fields() -> dict[str, Any]:
    """A field of a request for each option of any sampler, as `pydantic.create_model` takes them; null is the sampler's default.

    Types are checked here, bounds by the option itself; those in the schema are for its reader.
    """
    return {name: _field(option, samplers) for name, (option, samplers) in all_options().items()}


def _field(option: Option, samplers: list[str]) -> Any:
    kind: Any = FIELDS[option.type]
    said = f"{option.description}; of the sampler{'s' * (len(samplers) > 1)} {', '.join(samplers)}"
    extra = {"x-samplers": samplers, "default": option.default}
    return Annotated[kind, bounds(**_limits(option))] | None, Field(
        default=None, description=said, json_schema_extra=extra
    )


def _limits(option: Option) -> dict[str, Any]:
    """In the words of JSON Schema."""
    limits: dict[str, Any] = {"minimum": option.minimum, "maximum": option.maximum, "exclusiveMinimum": option.above}
    limits["enum"] = list(option.choices) or None
    return {name: limit for name, limit in limits.items() if limit is not None}


class OptionInfo(BaseModel):
    """What may be asked of a sampler alone, in a field of this name."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    type: Annotated[str, bounds(enum=list(TYPES.values()))]
    default: Value
    description: str
    minimum: float | None
    exclusive_minimum: float | None
    maximum: float | None
    choices: list[str] | None
    """of a string"""


class SamplerInfo(BaseModel):
    """A sampler that a model can be asked for."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    summary: str
    law: str
    """whose law its samples have; empty where they have none of the model's"""
    options: list[OptionInfo]


@cache
def samplers_of(process: str) -> list[SamplerInfo]:
    """Those that are for a process, the default one first."""
    return [
        SamplerInfo(name=name, summary=kind.summary, law=kind.law, options=_options(kind.decoders[process].Options))
        for name, kind in KINDS.items()
        if process in kind.decoders
    ]


def _options(declares: Any) -> list[OptionInfo]:
    options: Mapping[str, Option] = declared(declares)
    return [OptionInfo(**option.figures) for option in options.values()]
