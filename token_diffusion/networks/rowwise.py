"""A denoiser whose answer for a row cannot depend on the rows beside it, not even in its rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from .denoiser import Denoiser


class Rowwise:
    """Each row in a forward pass of its own, cut to its own length.

    A matrix product rounds differently in different shapes, and a draw that lies on the edge between two tokens then falls
    to the other side. Here the shapes that a row is computed in follow from the row alone: `1 x length` in the body and
    `n x V` in the head, n being the positions that this row asked for.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        count, length = tokens.shape
        row, column = positions // length, positions % length
        ends = (valid * torch.arange(1, length + 1, device=valid.device)).amax(1).tolist()
        columns = column.split(torch.bincount(row, minlength=count).tolist())
        parts = []
        for index, (end, asked) in enumerate(zip(ends, columns, strict=True)):
            if asked.numel():
                one = slice(index, index + 1)
                parts.append(self.denoiser(tokens[one, :end].contiguous(), t[one], valid[one, :end], asked))
        return torch.cat(parts)
