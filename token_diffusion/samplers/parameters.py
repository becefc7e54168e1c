"""What a caller may ask of a sampler, checked once, for the shell, the server and Python alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ParameterError

MAX_STEPS = 2**20
"""Bound of `num_inference_steps`; far beyond use, and it keeps step counters inside the 32 bits of a random counter."""


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ParameterError(name, "be an integer", value)
    if not low <= value < high:
        raise ParameterError(name, f"be in [{low}, {high})", value)


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ParameterError(name, "be a finite number", value)


@dataclass(frozen=True)
class SamplingParameters:
    """One request to a sampler. Raises `ParameterError` when a value is outside its range.

    Attributes:
        seq_len: length of a sequence in tokens, prompt included.
        num_samples: sequences drawn; sample i of a seed is the same however many are drawn beside it.
        num_inference_steps: steps of the time grid, for each block; None is the continuous-time limit (first-hitting).
        temperature: divides the logits; 0 takes the most probable token.
        top_p: nucleus, in (0, 1]; the token that crosses it is kept. top_k: tokens kept, 0 for all.
        seed: in [0, 2^63).
        block_size: tokens of a block, filled left to right; None for one block, the whole sequence.
    """

    seq_len: int = 64
    num_samples: int = 1
    num_inference_steps: int | None = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    block_size: int | None = None

    def __post_init__(self) -> None:
        _check_int("seq_len", self.seq_len, 1, 2**31)
        _check_int("num_samples", self.num_samples, 1, 2**31)
        if self.num_inference_steps is not None:
            _check_int("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)
        _check_number("temperature", self.temperature)
        if self.temperature < 0:
            raise ParameterError("temperature", "be >= 0", self.temperature)
        _check_number("top_p", self.top_p)
        if not 0 < self.top_p <= 1:
            raise ParameterError("top_p", "be in (0, 1]", self.top_p)
        _check_int("top_k", self.top_k, 0, 2**31)
        _check_int("seed", self.seed, 0, 2**63)
        if self.block_size is not None:
            _check_int("block_size", self.block_size, 1, 2**31)
