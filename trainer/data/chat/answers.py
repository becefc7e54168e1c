"""Noisy answers: the prompt is never noised, the answer is, and with it the end tokens that fill its example up.

So a model learns where a text ends: behind its end there is nothing but end tokens, as far as the sequence goes (LLaDA's way).
Examples have `max_length` tokens, whatever their batch, so that a run does not depend on its batches; a few have a random
length instead, so that the model also knows sequences that end early, or within an answer.

The loss is that of all training here: the sum over the noised positions of a step, end tokens among them, by the number of
positions that may be noised; each of these weighs the same. (LLaDA's divides by the length of each answer first, so that each
example weighs the same.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..noising import Draw, NoisyExamples
from .exchanges import Exchanges

LENGTH = 1
"""Tells the draw of a length from that of noise, which has the same seed."""


class AnswerExamples(NoisyExamples):
    """Exchanges with noise on their answers, `max_length` tokens each; the others are cut to a random length.

    random_length_ratio: the share of those. Their lengths are drawn evenly from those that hold one token of the answer at least.
    """

    def __init__(
        self, exchanges: Exchanges, *arguments: Any, max_length: int, random_length_ratio: float = 0.0, **options: Any
    ) -> None:
        super().__init__(exchanges.ids, *arguments, **options)
        self.exchanges, self.max_length, self.random_length_ratio = exchanges, max_length, random_length_ratio

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        start = int(self.exchanges.starts[draw.sequence])
        ids = self.sequences[draw.sequence]
        clean = torch.full((self._length(start, draw),), self.exchanges.end)
        there = min(len(ids), len(clean))
        clean[:there] = torch.from_numpy(ids[:there].astype(np.int64))
        noisable = torch.isin(clean, self.special_ids, invert=True) & (torch.arange(len(clean)) >= start)
        return self.with_noise(clean, noisable, draw)

    def _length(self, start: int, draw: Draw) -> int:
        generator = np.random.default_rng([draw.seed, LENGTH])
        if generator.random() >= self.random_length_ratio:
            return self.max_length
        return int(generator.integers(start + 1, self.max_length, endpoint=True))
