"""The samplers by name: the one table from which requests, the shell, `/models` and the docs know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ParameterError
from .decoders.thinning import Thinning
from .decoders.unmasking import Unmasking
from .options import Option, declared
from .sampler import Decoder


@dataclass(frozen=True)
class Kind:
    """A sampler that requests may name.

    summary: what it does, in a line. law: whose law its samples have, in a few words; "" where they have no law of the model's.
    decoders: by the name of the process that it is for.
    """

    summary: str
    law: str
    decoders: Mapping[str, type[Decoder]]

    @property
    def options(self) -> dict[str, Option]:
        """What may be asked of it alone, by name."""
        return {name: each for decoder in self.decoders.values() for name, each in declared(decoder.Options).items()}


KINDS: dict[str, Kind] = {
    "ancestral": Kind(
        "reverses the noise step by step; without a grid (num_inference_steps null, absorbing alone) it is first-hitting",
        "the model's: of the grid's steps, and of continuous time without one",
        {"absorbing": Unmasking, "uniform": Thinning, "hybrid": Thinning},
    ),
}
"""All of them, the default one first."""


def all_options() -> dict[str, tuple[Option, list[str]]]:
    """Every option by its name, with the names of the samplers that have it."""
    found: dict[str, tuple[Option, list[str]]] = {}
    for sampler, kind in KINDS.items():
        for name, each in kind.options.items():
            found.setdefault(name, (each, []))[1].append(sampler)
    return found


def decoder_of(sampler: str, process: str) -> type[Decoder]:
    """Raises `ParameterError` if there is no sampler of that name, or none for the process."""
    fitting = [name for name, kind in KINDS.items() if process in kind.decoders]
    if sampler not in KINDS:
        raise ParameterError("sampler", f"be {_either(list(KINDS))}", sampler)
    if sampler not in fitting:
        raise ParameterError("sampler", f"be {_either(fitting)} for the {process} process", sampler)
    return KINDS[sampler].decoders[process]


def _either(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
