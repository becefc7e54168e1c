"""A denoiser whose answer for a row cannot depend on the rows beside it, not even in its rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .denoiser import (
    Denoiser,
    block_size_of,
    ends_of,
    forbidden_by,
    gives_logits,
    in_pieces,
    num_classes_of,
    own_threads,
)
from .groups import Grouping, in_groups


class Rowwise:
    """Each row in a forward pass of its own, cut to its own length.

    A matrix product rounds differently in different shapes, and a draw that lies on the edge between two tokens then falls
    to the other side. Here the shapes that a row is computed in follow from the row alone: `1 x length` in the body and
    `n x V` in the head, n being the positions that this row asked for.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.forbidden, self.ends = denoiser, forbidden_by(denoiser), ends_of(denoiser)
        self.num_classes, self.block_size = num_classes_of(denoiser), block_size_of(denoiser)
        self.gives_logits, self.own_threads = gives_logits(denoiser), own_threads(denoiser)

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        return in_groups(self.denoiser, tokens, t, valid, positions, Grouping("row"), labels)

    def in_pieces(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Any:
        """What a call gives, to be looked at in slices; that of one row may come in pieces."""
        return in_groups(in_pieces(self.denoiser), tokens, t, valid, positions, Grouping("row"), labels)
