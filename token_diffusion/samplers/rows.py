"""The rows of a batch: one row a sequence, every field one tensor, so that a step needs no Python loop over rows.

They live on the CPU whatever the network runs on. Planning is integer work on a few thousand numbers, and done here it never
has to wait for the device: a tick sends tokens there, and what was drawn comes back in one copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import blocks_of
from .parameters import SamplingParameters

NEVER = 2**62
"""A due step that does not come."""


@dataclass
class Rows:
    """What each of R rows of at most L positions has; a kind of sampler adds fields of its own in a class of its own.

    [R] fields are one value a row, [R, L] one a position.

    tokens: int64, the sequences; what lies beyond a row's length is padding. `valid`: bool, inside the row's length.
    open: bool, positions that the sampler works on; fixed ones (frame, prompt, template) are never written.
    seed, sample: int64 [R], by which its draws are named. nfe: int64, network evaluations.
    label: int64 [R], the class that the network is told, -1 for none.
    left: int64, evaluations of the network that the row may still need, at most.
    failed: bool [R], the network gave no distribution for it. finished: bool [R], it needs the network no more.
    """

    CHANGING: ClassVar[tuple[str, ...]] = ("tokens", "nfe", "left", "failed", "finished")
    """Fields that a tick writes."""

    tokens: Tensor
    valid: Tensor
    open: Tensor
    seed: Tensor
    sample: Tensor
    label: Tensor
    nfe: Tensor
    left: Tensor
    failed: Tensor
    finished: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def position(self) -> Tensor:
        """0 .. L-1, int64 [1, L]."""
        return torch.arange(self.tokens.shape[1]).unsqueeze(0)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Each field's name and value."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def select(self, index: Tensor) -> Self:
        """The rows of a bool or int64 index [R]."""
        return type(self)(**{name: value[index] for name, value in self.items()})

    def join(self, lower: Self) -> Self:
        """Both, one under the other, the shorter padded to the longer's length."""
        length = max(self.tokens.shape[1], lower.tokens.shape[1])
        both = zip(self.widened(length).items(), lower.widened(length).items(), strict=True)
        return type(self)(**{name: torch.cat([value, below]) for (name, value), (_, below) in both})

    def widened(self, length: int) -> Self:
        """The same rows, padded to this length."""
        more = length - self.tokens.shape[1]
        if not more:
            return self
        return type(self)(
            **{name: F.pad(value, (0, more)) if value.dim() == 2 else value for name, value in self.items()}
        )

    def trimmed(self) -> Self:
        """The same rows without the columns that are padding in all of them."""
        length = int(self.valid.any(0).sum()) if len(self) else 0
        if length == self.tokens.shape[1]:
            return self
        return type(self)(
            **{name: value[:, :length].contiguous() if value.dim() == 2 else value for name, value in self.items()}
        )


@dataclass
class SampleRows(Rows):
    """Rows that are filled in.

    block: int64, the block that an open position belongs to; 0 elsewhere. num_blocks: int64 [R].
    num_steps: int64, grid steps a block; 0 is the continuous-time limit. last_step: int64, the step that ends the row.
    step: int64, grid steps done, counted through all blocks. t: float64, the time reached.
    blocks_done: int64, blocks that are filled. due_step, due_t: when an open absorbing position is unmasked (NEVER once it is),
    and the time that the network sees then. step_map: int64 [R, L], the step that last set a position, 0 before any did.
    """

    CHANGING: ClassVar[tuple[str, ...]] = (*Rows.CHANGING, "due_step", "step_map", "step", "blocks_done", "t")

    block: Tensor
    due_step: Tensor
    due_t: Tensor
    step_map: Tensor
    num_blocks: Tensor
    num_steps: Tensor
    last_step: Tensor
    step: Tensor
    blocks_done: Tensor
    t: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor


def make_rows(tokens: Sequence[int], parameters: SamplingParameters) -> SampleRows:
    """`num_samples` equal rows before a sampler prepares them; `tokens` of length L, negative where open."""
    canvas = torch.tensor(tokens, dtype=torch.int64)
    is_open = canvas < 0
    count, length = parameters.num_samples, canvas.numel()
    blocks = blocks_of(tokens, parameters)
    block = torch.where(is_open, blocks.number(torch.arange(length)), 0)
    num_blocks = len(blocks)

    def each(value: float, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.full((count,), value, dtype=dtype)

    def tiled(value: Tensor) -> Tensor:
        return value.unsqueeze(0).repeat(count, 1)

    return SampleRows(
        tokens=tiled(canvas.clamp(min=0)),
        valid=tiled(torch.ones_like(is_open)),
        open=tiled(is_open),
        block=tiled(block),
        due_step=tiled(torch.full_like(canvas, NEVER)),
        due_t=tiled(torch.zeros_like(canvas, dtype=torch.float64)),
        step_map=tiled(torch.zeros_like(canvas)),
        seed=each(parameters.seed),
        sample=torch.arange(count),
        label=each(-1 if parameters.label is None else parameters.label),
        num_blocks=each(num_blocks),
        num_steps=each(parameters.num_inference_steps or 0),
        last_step=each(num_blocks * (parameters.num_inference_steps or 0)),
        step=each(0),
        blocks_done=each(0),
        t=each(1, torch.float64),
        nfe=each(0),
        left=each(0),
        failed=each(False, torch.bool),
        finished=each(False, torch.bool),
        temperature=each(parameters.temperature, torch.float64),
        top_k=each(parameters.top_k),
        top_p=each(parameters.top_p, torch.float64),
        min_p=each(parameters.min_p, torch.float64),
    )
