"""What a request may cost, known before it is begun: tokens times the evaluations of the network that a row may need."""

from __future__ import annotations

from collections.abc import Sequence

from .parameters import Parameters
from .sampler import Sampler


def price(sampler: Sampler, tokens: Sequence[int], parameters: Parameters) -> int:
    """Bound of a request's work in token passes: tokens of its rows times evaluations of each."""
    return parameters.num_samples * len(tokens) * sampler.evaluations(tokens, parameters)
