"""Fields of a request by the name of who has them as defaults: a preset is what is asked where nothing else was."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import ParameterError, one_of

PRESETS: dict[str, dict[str, Any]] = {
    "llada": {
        "sampler": "confidence",
        "ranked_by": "drawn",
        "quota": "even",
        "num_inference_steps": 128,
        "temperature": 0.0,
        "block_size": 32,
    },
    "dream": {
        "sampler": "entropy",
        "ranked_by": "shaped",
        "quota": "schedule",
        "grid_eps": 1e-3,
        "num_inference_steps": 512,
        "temperature": 0.2,
        "top_p": 0.95,
    },
    "fast-dllm": {
        "sampler": "confidence",
        "ranked_by": "drawn",
        "threshold": 0.9,
        "temperature": 0.0,
        "block_size": 32,
    },
    "remdm": {
        "sampler": "remdm",
        "remask": "loop",
        "num_inference_steps": 1024,
        "top_p": 0.9,
    },
}
"""Defaults as their authors have them: of LLaDA's and Fast-dLLM's `generate`, in blocks as they call it; of Dream's README; of
ReMDM's script for its loop, whose numbers are the sampler's own defaults. A `block_size` holds for block-wise sampling only."""

INSTEAD = [{"threshold", "factor", "entropy_bound"}]
"""Fields of which a request has one: who gives another than the preset's wants it instead."""


def with_preset(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The flat fields that were given over those of the preset; None is no preset.

    Raises:
        ParameterError: there is none of that name.
    """
    if name is None:
        return dict(given)
    if name not in PRESETS:
        raise ParameterError("preset", f"be {one_of(PRESETS)}", name)
    replaced = {
        field for fields in INSTEAD if any(given.get(field) is not None for field in fields) for field in fields
    }
    return {field: value for field, value in PRESETS[name].items() if field not in replaced} | dict(given)


@contextmanager
def filled_in(name: str | None, given: Collection[str]) -> Iterator[None]:
    """Errors about what the preset of that name has filled in, as it is not among the fields `given`, say so."""
    try:
        yield
    except ParameterError as error:
        if error.name in given or error.name not in PRESETS.get(name or "", {}):
            raise
        raise ParameterError(error.name, f"{error.rule} (the preset {name} fills it in)", error.value) from error
