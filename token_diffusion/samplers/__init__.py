"""The samplers: which positions need the network next (`plan`), and what its answer makes of them (`commit`)."""

from __future__ import annotations

from ..diffusion.scheduler import TokenDiffusionScheduler
from .sampler import Plan, Sampler
from .thinning import Thinning
from .unmasking import Unmasking

__all__ = ["Plan", "Sampler", "make_sampler"]


def make_sampler(scheduler: TokenDiffusionScheduler) -> Sampler:
    """The sampler of a scheduler's process; ancestral and block-wise sampling are the same one, with one block or many."""
    sampler = Unmasking if scheduler.config.forward_process == "absorbing" else Thinning
    return sampler(scheduler.process)
