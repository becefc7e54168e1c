"""The samplers: which positions need the network next (`plan`), and what its answer makes of them (`commit`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..diffusion.scheduler import TokenDiffusionScheduler
from .catalogue import decoder_of
from .parameters import Parameters, ScoringParameters
from .sampler import Outcome, Plan, Sampler, Vocabulary, price
from .scoring import Scoring

__all__ = ["Outcome", "Plan", "Sampler", "Samplers", "price"]


class Samplers:
    """Those of a scheduler's process, each made once: rows of one are planned together.

    Args:
        forbidden: ids that no sample may hold. ends: ids that end a text.
    """

    def __init__(
        self, scheduler: TokenDiffusionScheduler, forbidden: Sequence[int] = (), ends: Sequence[int] = ()
    ) -> None:
        self.process = scheduler.process
        ids = (torch.tensor(sorted(some), dtype=torch.int64) for some in (forbidden, ends))
        self.vocabulary = Vocabulary(scheduler.config.mask_token_id, *ids)
        self._made: dict[Any, Sampler] = {}

    def of(self, parameters: Parameters) -> Sampler:
        """The sampler of the rows that such parameters ask for, which it can do.

        Raises:
            ParameterError: there is none such for the process, or it cannot do this.
        """
        sampler = self._sampler(parameters)
        sampler.check(parameters)
        return sampler

    def _sampler(self, parameters: Any) -> Sampler:
        kind: Any = Scoring
        if not isinstance(parameters, ScoringParameters):
            kind = decoder_of(parameters.sampler, self.process.name)
        if kind not in self._made:
            self._made[kind] = kind(self.process, self.vocabulary)
        return self._made[kind]
