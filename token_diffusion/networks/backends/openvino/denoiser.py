"""A network of OpenVINO as a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import denoiser as denoisers
from ...behaviour import behaviour
from ...denoiser import MaskedLMDenoiser
from ...groups import SHARED, Batching, in_groups
from ...masked_lm import Pieces
from .graphs import Embedded
from .library import Compiled


class OpenVINODenoiser:
    """Answers as `plain` does, in float32 whatever the weights' type, and on the CPU.

    embedded: makes of the times what the body is told, if that is not the times themselves.
    body: gives the hidden states at the positions, of which `head` makes logits; or those themselves, where there is no head.
    """

    device = torch.device("cpu")
    gives_logits = own_threads = True

    def __init__(
        self, plain: MaskedLMDenoiser, embedded: Embedded | None, body: Compiled, head: Compiled | None
    ) -> None:
        self.forbidden, self.ends = plain.forbidden, plain.ends
        self.num_classes, self.block_size = plain.num_classes, plain.block_size
        self._embedded, self._body, self._head = embedded, body, head
        self._grouping = behaviour(plain.model).grouping

    @property
    def batching(self) -> Batching:
        return self._grouping.batching

    @torch.inference_mode()
    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        logits: Tensor = self._grouped(self._logits, tokens, t, valid, positions, labels)
        return logits

    @torch.inference_mode()
    def in_pieces(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Any:
        """What a call gives, to be looked at in slices: of more than `PIECE_BYTES`, no more than that is there at a time."""
        return self._grouped(self._pieces, tokens, t, valid, positions, labels)

    def _grouped(
        self,
        ask: Callable[..., Any],
        tokens: Tensor,
        t: Tensor,
        valid: Tensor,
        positions: Tensor,
        labels: Tensor | None,
    ) -> Any:
        if self._grouping == SHARED:
            return ask(tokens, t, valid, positions, labels)
        return in_groups(ask, tokens, t, valid, positions, self._grouping, labels)

    def _logits(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        states = self._states(tokens, t, valid, positions, labels)
        return states if self._head is None else self._head(len(states), {"hidden": states})

    def _pieces(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Any:
        head = self._head
        if head is None:
            return self._states(tokens, t, valid, positions, labels)
        size = max(1, denoisers.PIECE_BYTES // (head.width * torch.float32.itemsize))
        states = self._states(tokens, t, valid, positions, labels)

        def piece(number: int) -> Tensor:
            some = states[number * size : (number + 1) * size]
            return head(len(some), {"hidden": some})

        first = piece(0)
        return first if len(states) <= size else Pieces(piece, first, len(states))

    def _states(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None) -> Tensor:
        none = labels if labels is not None else torch.full((len(tokens),), -1)
        times = t.float() if self._embedded is None else self._embedded(t)
        inputs = {"tokens": tokens, "t": times, "valid": valid, "positions": positions, "labels": none}
        return self._body(len(positions), inputs)
