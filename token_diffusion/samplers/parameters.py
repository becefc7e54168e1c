"""What a caller may ask of a sampler, checked once, for the shell, the server and Python alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..diffusion.values import MAX_STEPS, check_int, check_shaping

__all__ = ["MAX_STEPS", "Parameters", "SamplingParameters"]


class Parameters(Protocol):
    """What any request has, whichever sampler it asks for."""

    @property
    def seq_len(self) -> int: ...

    @property
    def seed(self) -> int: ...

    @property
    def num_samples(self) -> int:
        """Rows that it brings."""


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
        min_p: tokens with at least so much of the most probable one's probability are kept, in [0, 1]; 0 for all. The order is
            temperature, top_k, top_p, min_p.
    """

    seq_len: int = 64
    num_samples: int = 1
    num_inference_steps: int | None = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    block_size: int | None = None
    min_p: float = 0.0

    def __post_init__(self) -> None:
        check_int("seq_len", self.seq_len, 1, 2**31)
        check_int("num_samples", self.num_samples, 1, 2**31)
        if self.num_inference_steps is not None:
            check_int("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)
        check_shaping(self.temperature, self.top_p, self.top_k, self.min_p)
        check_int("seed", self.seed, 0, 2**63)
        if self.block_size is not None:
            check_int("block_size", self.block_size, 1, 2**31)
