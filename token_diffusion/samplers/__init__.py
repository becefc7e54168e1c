"""The samplers: which positions need the network next (`plan`), and what its answer makes of them (`commit`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..errors import ParameterError
from .catalogue import decoder_of
from .decoders.early_end import EarlyEnd
from .decoders.guidance import guided
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
        self._made: dict[Any, Any] = {}

    def of(self, parameters: Parameters) -> Sampler:
        """The sampler of the rows that such parameters ask for, which it can do.

        Raises:
            ParameterError: there is none such for the process, or it cannot do this.
        """
        sampler: Sampler = self._sampler(parameters)
        sampler.check(parameters)
        for name in ("suppress_end", "early_end"):
            if getattr(parameters, name, False) and not self.vocabulary.ends.numel():
                raise ParameterError(name, "be false, as the model has learnt no token that ends a text", True)
        return sampler

    def _sampler(self, parameters: Any) -> Any:
        if isinstance(parameters, ScoringParameters):
            return self._once(Scoring, lambda: Scoring(self.process, self.vocabulary))
        kind, scale = decoder_of(parameters.sampler, self.process.name), parameters.guidance_scale
        decoder = self._once(kind, lambda: kind(self.process, self.vocabulary))
        branches = float(scale) if scale in (0, 1) else "both"
        sampler = self._once((kind, branches), lambda: guided(decoder, parameters))
        if not parameters.early_end:
            return sampler
        return self._once((kind, branches, "early"), lambda: EarlyEnd(sampler, decoder))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
