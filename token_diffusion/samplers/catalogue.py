"""The samplers by name: the one table from which requests, the shell, `/models` and the docs know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ParameterError, one_of
from .decoders.gibbs import GibbsThinning, GibbsUnmasking
from .decoders.psi import Psi
from .decoders.ranked import Ranked
from .decoders.remdm import Remasking
from .decoders.self_correction import SelfCorrection
from .decoders.thinning import Thinning
from .decoders.unmasking import Unmasking
from .options import Option, declared, either
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
        found: dict[str, Option] = {}
        for decoder in self.decoders.values():
            for name, each in declared(decoder.Options).items():
                found[name] = either(found.get(name, each), each)
        return found


KINDS: dict[str, Kind] = {
    "ancestral": Kind(
        "reverses the noise step by step; without a grid (num_inference_steps null, absorbing alone) it is first-hitting",
        "the model's: of the grid's steps, and of continuous time without one",
        {"absorbing": Unmasking, "uniform": Thinning, "hybrid": Thinning},
    ),
    "confidence": Kind(
        "sets first the masks of whose token the network is surest (LLaDA, Dream, Fast-dLLM)",
        "",
        {"absorbing": Ranked},
    ),
    "margin": Kind(
        "sets first the masks whose most probable token is furthest before the next one (Dream's topk_margin)",
        "",
        {"absorbing": Ranked},
    ),
    "entropy": Kind(
        "sets first the masks whose distribution has least entropy (Dream; with entropy_bound the EB sampler)",
        "",
        {"absorbing": Ranked},
    ),
    "random": Kind(
        "sets masks in random order, so many a step (LLaDA's random remasking)",
        "the model's where each step sets one",
        {"absorbing": Ranked},
    ),
    "remdm": Kind(
        "ancestral on a grid, but that tokens become masks again and are drawn anew (ReMDM and its correctors)",
        "the model's as steps grow; less so where eta does not fall with them, and not at all for remask conf",
        {"absorbing": Remasking},
    ),
    "psi": Kind(
        "ancestral with probability kappa, else draws a clean token and noises it anew (Duo II)",
        "the model's as steps grow and correction falls with them",
        {"uniform": Psi, "hybrid": Psi},
    ),
    "gibbs": Kind(
        "ancestral, and after each step draws some positions anew given all others",
        "the model's, if one position a corrector step is chosen at random: that leaves the law as it is",
        {"absorbing": GibbsUnmasking, "uniform": GibbsThinning, "hybrid": GibbsThinning},
    ),
    "self_correction": Kind(
        "ancestral, and then rewrites what the network finds wrong in the finished text (GIDD)",
        "",
        {"uniform": SelfCorrection, "hybrid": SelfCorrection},
    ),
}
"""All of them, the default one first."""


def all_options() -> dict[str, tuple[Option, list[str]]]:
    """Every option by its name, as far as the samplers that have it agree, with their names."""
    found: dict[str, tuple[Option, list[str]]] = {}
    for sampler, kind in KINDS.items():
        for name, each in kind.options.items():
            known, samplers = found.get(name, (each, []))
            found[name] = either(known, each), [*samplers, sampler]
    return found


def kind_of(sampler: str) -> Kind:
    """Raises `ParameterError` if there is no sampler of that name."""
    if sampler not in list(KINDS):  # a list has no hash to be looked up by
        raise ParameterError("sampler", f"be {one_of(KINDS)}", sampler)
    return KINDS[sampler]


def decoder_of(sampler: str, process: str) -> type[Decoder]:
    """Raises `ParameterError` if there is no sampler of that name, or none for the process."""
    decoders = kind_of(sampler).decoders
    if process not in decoders:
        fitting = one_of(name for name, kind in KINDS.items() if process in kind.decoders)
        raise ParameterError("sampler", f"be {fitting} for the {process} process", sampler)
    return decoders[process]
