"""The samplers: which positions need the network next (`plan`), and what its answer makes of them (`commit`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..diffusion.scheduler import TokenDiffusionScheduler
from .parameters import Parameters, SamplingParameters, ScoringParameters
from .sampler import Outcome, Plan, Sampler
from .scoring import Scoring
from .thinning import Thinning
from .unmasking import Unmasking

__all__ = ["Outcome", "Plan", "Sampler", "make_sampler"]


def make_sampler(
    scheduler: TokenDiffusionScheduler,
    kind: type[Parameters] = SamplingParameters,
    forbidden: Sequence[int] = (),
) -> Sampler:
    """The sampler of the rows that parameters of this kind ask for."""
    return SAMPLERS[kind](scheduler, forbidden)


def _ancestral(scheduler: TokenDiffusionScheduler, forbidden: Sequence[int]) -> Sampler:
    """That of a scheduler's process; ancestral and block-wise sampling are the same one, with one block or many."""
    sampler = Unmasking if scheduler.config.forward_process == "absorbing" else Thinning
    return sampler(scheduler.process, forbidden)


SAMPLERS: dict[type[Parameters], Callable[[TokenDiffusionScheduler, Sequence[int]], Sampler]] = {
    SamplingParameters: _ancestral,
    ScoringParameters: lambda scheduler, forbidden: Scoring(scheduler.process),
}
"""Each kind of row, by what asks for it."""
