"""Rows that may not all share a forward pass: which go together, and a pass for each group, cut to its rows' own length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Batching = Literal["shared", "length", "row"]
"""Which rows may share a forward pass, so that none changes another's logits by more than rounding: any, padded to the longest;
rows of one length; none."""


@dataclass(frozen=True)
class Grouping:
    """How a network's rows are put together. shortest: what has fewer tokens is always padded to so many."""

    batching: Batching = "shared"
    shortest: int = 1

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which rows of these lengths go into a forward pass together."""
        if self.batching == "shared":
            return [list(range(len(lengths)))]
        if self.batching == "row":
            return [[index] for index in range(len(lengths))]
        found: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            found.setdefault(length, []).append(index)
        return list(found.values())

    def cut(self, part: Tensor, rows: list[int], length: int) -> Tensor:
        """These rows of `part` [B, L], all of this length, without the padding that they do not always have."""
        return F.pad(part[:, :length][_index(rows)], (0, max(self.shortest - length, 0)))


SHARED = Grouping()


def in_groups(
    ask: Callable[..., Tensor],
    tokens: Tensor,
    t: Tensor,
    valid: Tensor,
    positions: Tensor,
    grouping: Grouping,
    labels: Tensor | None = None,
) -> Tensor:
    """A denoiser's answer, asked for one group of rows after the other.

    The arguments are a denoiser's, and `positions` ascend; rows that nothing is asked of are left out.
    """
    count, length = tokens.shape
    row, column = positions // length, positions % length
    columns = column.split(torch.bincount(row, minlength=count).tolist())
    ends = row_lengths(valid)
    asked = [index for index in range(count) if columns[index].numel()]
    answers: dict[int, Tensor] = {}
    for group in grouping.groups([ends[index] for index in asked]):
        rows = [asked[place] for place in group]
        own = grouping.cut(tokens, rows, ends[rows[0]])
        places = torch.cat([columns[index] + place * own.shape[1] for place, index in enumerate(rows)])
        own_labels = () if labels is None else (labels[_index(rows)],)
        logits = ask(own, t[_index(rows)], grouping.cut(valid, rows, ends[rows[0]]), places, *own_labels)
        answers |= zip(rows, logits.split([columns[index].numel() for index in rows]), strict=True)
    if len(asked) == 1:
        return answers[asked[0]]  # as it is, in pieces it may be
    return torch.cat([answers[index][:] for index in asked])


def row_lengths(valid: Tensor) -> list[int]:
    """How many tokens each row of `valid` [B, L], bool or 0 and 1, has before its padding."""
    return (valid * torch.arange(1, valid.shape[1] + 1, device=valid.device)).amax(1).tolist()


def _index(rows: list[int]) -> list[int] | slice:
    """These rows; one alone is not copied to the device as a number."""
    return slice(rows[0], rows[0] + 1) if len(rows) == 1 else rows
