"""The rows of a batch: one row a sequence, every field one tensor, so that a step needs no Python loop over rows.

They live on the CPU whatever the network runs on. Planning is integer work on a few thousand numbers, and done here it never
has to wait for the device: a tick sends tokens there, and what was drawn comes back in one copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, TypeVar

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

    def end(self, over: Tensor) -> None:
        """The rows of a bool index [R] need nothing more."""
        self.finished |= over
        self.left.masked_fill_(over, 0)

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
    num_steps: int64, grid steps a block; 0 is without a grid. last_step: int64, the step that ends the row.
    step: int64, grid steps done, counted through all blocks. t: float64, the time reached.
    blocks_done: int64, blocks that are filled. step_map: int64 [R, L], the step that last set a position, 0 before any did.
    logprobs: bool [R], log-probabilities are asked for. logprob: float32 [R, L], the network's own, unshaped, of a position's
    token when it was set; NaN where nothing was, or not by the network.
    guidance_scale: float64 [R]. framed: bool [R, L], fixed positions that are the frame's. suppress_end: bool [R].
    """

    CHANGING: ClassVar[tuple[str, ...]] = (*Rows.CHANGING, "step_map", "logprob", "step", "blocks_done", "t")

    block: Tensor
    step_map: Tensor
    logprob: Tensor
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
    logprobs: Tensor
    guidance_scale: Tensor
    framed: Tensor
    suppress_end: Tensor

    @property
    def blocks_final(self) -> Tensor:
        """Blocks whose tokens stay as they are, int64 [R]."""
        return self.blocks_done

    def end(self, over: Tensor) -> None:
        """And are at the end of their grid."""
        super().end(over)
        self.t.masked_fill_(over, 0.0)
        for value, last in ((self.step, self.last_step), (self.blocks_done, self.num_blocks)):
            value.copy_(torch.where(over, last, value))


R = TypeVar("R", bound=SampleRows)

DTYPES = {bool: torch.bool, int: torch.int64, float: torch.float64}


def make_rows(
    tokens: Sequence[int],
    parameters: SamplingParameters,
    kind: type[R],
    **own: Any,
) -> R:
    """`num_samples` equal rows before a sampler prepares them; `tokens` of length L, negative where open.

    own: of the fields that `kind` adds, a number of each [R], a tensor [L] of each [R, L].
    """
    canvas = torch.tensor(tokens, dtype=torch.int64)
    is_open = canvas < 0
    count, length = parameters.num_samples, canvas.numel()
    blocks = blocks_of(tokens, parameters)
    framed = torch.zeros_like(is_open)
    framed[: parameters.frame[0]] = framed[length - parameters.frame[1] :] = True

    def each(value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value.unsqueeze(0).repeat(count, 1)
        return torch.full((count,), value, dtype=DTYPES[type(value)])

    common: dict[str, Any] = {
        "tokens": canvas.clamp(min=0),
        "valid": torch.ones_like(is_open),
        "open": is_open,
        "block": torch.where(is_open, blocks.number(torch.arange(length)), 0),
        "step_map": torch.zeros_like(canvas),
        "logprob": torch.full(canvas.shape, torch.nan, dtype=torch.float32),
        "seed": parameters.seed,
        "label": -1 if parameters.label is None else parameters.label,
        "num_blocks": len(blocks),
        "num_steps": parameters.num_inference_steps or 0,
        "last_step": len(blocks) * (parameters.num_inference_steps or 0),
        "step": 0,
        "blocks_done": 0,
        "t": 1.0,
        "nfe": 0,
        "left": 0,
        "failed": False,
        "finished": False,
        "temperature": float(parameters.temperature),
        "top_k": parameters.top_k,
        "top_p": float(parameters.top_p),
        "min_p": float(parameters.min_p),
        "logprobs": parameters.logprobs,
        "guidance_scale": float(parameters.guidance_scale),
        "framed": framed & ~is_open,
        "suppress_end": parameters.suppress_end,
    }
    values = {name: each(value) for name, value in (common | own).items()}
    return kind(sample=torch.arange(count), **values)
