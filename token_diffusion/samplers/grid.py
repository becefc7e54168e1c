"""The time grid, on which each block goes from t = 1 to 0, and what of it a row has before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import SampleRows

MAX_ELEMENTS = 1 << 18
"""Draws looked at together when a batch searches for its next events."""


@dataclass(frozen=True)
class Ahead:
    """The next K steps of rows in the first block to come that is not all fixed, and the A positions there at most.

    start: int64 [R], the first of the steps, counted through all blocks; step: int64 [R, K], all of them. end: int64 [R], the one
    after the block's last. column: int64 [R, A], the open positions; is_active: bool [R, A], which of them there are.
    """

    start: Tensor
    step: Tensor
    end: Tensor
    column: Tensor
    is_active: Tensor


def grid_times(step: Tensor, num_steps: Tensor) -> tuple[Tensor, Tensor]:
    """The grid times float64 at the start and the end of a step."""
    done = step % num_steps
    return 1 - done / num_steps.double(), 1 - (done + 1) / num_steps.double()


def look_ahead(rows: SampleRows, count: int) -> Ahead:
    """Up to `count` steps, fewer where they hold more draws than are looked at together.

    They are of one block: a row with few open positions is far from its next event, but each of its steps is cheap to look at.
    """
    n = rows.num_steps
    to_come = rows.open & (rows.block >= (rows.step // n).unsqueeze(1))
    block = torch.where(to_come, rows.block, rows.num_blocks.unsqueeze(1)).amin(1)
    start, end = torch.maximum(rows.step, block * n), torch.minimum(block + 1, rows.num_blocks) * n
    column, is_active = _gathered(to_come & (rows.block == block.unsqueeze(1)))
    count = max(1, min(count, MAX_ELEMENTS // max(1, column.numel())))
    return Ahead(start, start.unsqueeze(1) + torch.arange(count), end, column, is_active)


def _gathered(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The columns int64 [R, A] at which each row of mask [R, L] is true, and others where it has fewer; bool [R, A] tells."""
    most = int(mask.sum(1).max())
    is_true, column = mask.byte().sort(dim=1, descending=True, stable=True)
    return column[:, :most], is_true[:, :most].bool()
