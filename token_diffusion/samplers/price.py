"""What a request may cost, known before it is begun: tokens times the evaluations of the network that a row may need."""

from __future__ import annotations

from collections.abc import Sequence

from .parameters import SamplingParameters
from .sampler import Sampler


def evaluations(sampler: Sampler, tokens: Sequence[int], parameters: SamplingParameters) -> int:
    """Bound of the network's evaluations for one row; `tokens` [seq_len], negative where the sampler fills in."""
    is_open = [position for position, token in enumerate(tokens) if token < 0]
    if not is_open:
        return 0
    size = parameters.block_size or len(tokens)
    in_block = [0] * ((is_open[-1] - is_open[0]) // size + 1)
    for position in is_open:
        in_block[(position - is_open[0]) // size] += 1
    return sampler.evaluations(in_block, parameters.num_inference_steps)


def price(sampler: Sampler, tokens: Sequence[int], parameters: SamplingParameters) -> int:
    """Bound of a request's work in token passes: tokens of its rows times evaluations of each."""
    return parameters.num_samples * len(tokens) * evaluations(sampler, tokens, parameters)
