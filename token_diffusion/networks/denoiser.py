"""Any masked LM as a denoiser that evaluates its vocabulary head only at the positions asked for.

    denoiser(tokens [B, L], t [B], valid [B, L], positions [n], labels [B] or None) -> logits [n, V]

`tokens` int64, `t` float64 times in (0, 1], `valid` bool (False is padding), `positions` int64 indices into the flattened
[B * L], `labels` int64, -1 for no label, asked with only where a row has one. The body runs over the batch; the head, often a
third of the work and most of the memory, over n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .behaviour import behaviour, seeded
from .groups import SHARED, Batching, in_groups
from .masked_lm import Head, block_size, forward_arguments, num_classes, parameter_names

LARGEST = 2**31
"""More labels than anybody has."""

PIECE_BYTES = 2**30
"""Logits that are there at a time: 4,245 positions of 126,464 tokens in bfloat16."""


class Denoiser(Protocol):
    """What the samplers call. `device` is where it wants its tokens.

    It may have `forbidden`, ids that no sample may hold; `ends`, ids that it has learnt to end a text with; `num_classes`, how
    many labels it knows; `block_size`, the positions of a block where none sees those of later blocks (`block_size_of`);
    `gives_logits`, whether those of a call are its caller's to write over, made for it alone (others are left as they are); and
    `own_threads`, whether it computes in threads that are not torch's.
    """

    @property
    def device(self) -> torch.device: ...

    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor: ...


class CallableDenoiser:
    """A plain callable `(tokens [B, L], t [B]) -> logits [B, L, V]` in a denoiser's place; it sees padding as it is.

    Its t has torch's default dtype, as a network's weights have. One that has a parameter `labels` is told them by that name,
    int64 [B], -1 for none, None where no row has one; it may have a `num_classes`, else it takes any label.
    """

    def __init__(self, function: Callable[..., Tensor], device: str | torch.device = "cpu") -> None:
        self.function, self.device, self.block_size = function, torch.device(device), block_size_of(function)
        self.ends, takes_labels = ends_of(function), "labels" in parameter_names(function)
        self.num_classes = int(getattr(function, "num_classes", LARGEST)) if takes_labels else 0

    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        told = {"labels": labels} if self.num_classes else {}
        return self.function(tokens, t.to(torch.get_default_dtype()), **told).flatten(0, 1)[positions]


class MaskedLMDenoiser:
    """A masked LM of transformers (`forward(input_ids, attention_mask).logits`), in evaluation mode.

    A forward pass with a `timesteps` parameter is told t, float32 [B] (`time_arguments`). `gathers` says whether the `head` can
    be run at the asked positions alone (`Head`); where it cannot, full logits are computed and gathered. `batching` says which
    rows may share a forward pass; others are asked one after the other, each at its own length.

    forbidden: ids that no sample may hold, for whoever draws from the logits; these are the model's own, as its bound is.
    ends: ids that the model has learnt to end a text with.

    Raises:
        ParameterError: the network cannot be asked, see `behaviour`.
    """

    gives_logits = True

    def __init__(self, model: Any, forbidden: Sequence[int] = (), ends: Collection[int] = ()) -> None:
        self.model, self.forbidden, self.ends = model.eval(), tuple(forbidden), tuple(sorted(ends))
        self.head, self._behaviour = Head(model), behaviour(model)

    @property
    def gathers(self) -> bool:
        return self.head.gathers

    @property
    def batching(self) -> Batching:
        return self._behaviour.grouping.batching

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def num_classes(self) -> int:
        return num_classes(self.model)

    @property
    def block_size(self) -> int | None:
        return block_size(self.model)

    @torch.inference_mode()
    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        grouping = self._behaviour.grouping
        if grouping == SHARED:
            return self._logits(tokens, t, valid, positions, labels)
        return in_groups(self._logits, tokens, t, valid, positions, grouping, labels)

    @torch.inference_mode()
    def in_pieces(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Any:
        """What a call gives, to be looked at in slices: of more than `PIECE_BYTES`, no more than that is there at a time."""
        size = PIECE_BYTES // (self.model.config.get_text_config().vocab_size * next(self.model.parameters()).itemsize)
        if len(positions) <= size or not self.gathers:
            return self(tokens, t, valid, positions, labels)

        def ask(tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None) -> Any:
            forward = partial(self._forward, tokens, t, valid, labels)
            return self.head.in_pieces(lambda: forward().flatten(0, -2), positions, size)

        grouping = self._behaviour.grouping
        if grouping == SHARED:
            return ask(tokens, t, valid, positions, labels)
        return in_groups(ask, tokens, t, valid, positions, grouping, labels)

    def _logits(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        if not self.gathers:
            return self._forward(tokens, t, valid, labels).flatten(0, 1)[positions]
        with self.head.at(positions):
            return self._forward(tokens, t, valid, labels).flatten(0, -2)

    def _forward(self, tokens: Tensor, t: Tensor, valid: Tensor, labels: Tensor | None) -> Tensor:
        with seeded(self.model) if self._behaviour.random else nullcontext():
            return self.model(**forward_arguments(self.model, tokens, t, valid.long(), labels)).logits


def forbidden_by(denoiser: Any) -> tuple[int, ...]:
    """The ids that no sample of a denoiser may hold."""
    return tuple(getattr(denoiser, "forbidden", ()))


def ends_of(denoiser: Any) -> tuple[int, ...]:
    """The ids that a denoiser has learnt to end a text with."""
    return tuple(getattr(denoiser, "ends", ()))


def in_pieces(denoiser: Any) -> Any:
    """What a denoiser is asked with by who reads logits in slices: its own `in_pieces`, if its class has one, or else itself."""
    return denoiser.in_pieces if hasattr(type(denoiser), "in_pieces") else denoiser


def own_threads(denoiser: Any) -> bool:
    """Whether a denoiser computes in threads of its own, beside torch's."""
    return bool(getattr(denoiser, "own_threads", False))


def gives_logits(denoiser: Any) -> bool:
    """Whether the logits of a call are its caller's to write over."""
    return bool(getattr(denoiser, "gives_logits", False))


def num_classes_of(denoiser: Any) -> int:
    """How many labels a denoiser knows."""
    return int(getattr(denoiser, "num_classes", 0))


def block_size_of(denoiser: Any) -> int | None:
    """The positions of a block where none sees those of later blocks, of a denoiser or of a model that is to be one; None where
    all see all.
    """
    found: int | None = getattr(denoiser, "block_size", None)
    return block_size(denoiser) if found is None and hasattr(denoiser, "config") else found


def as_denoiser(denoiser: Any) -> Denoiser:
    """A denoiser from what a caller has: a denoiser, a masked LM, or a callable `(tokens, t) -> logits [B, L, V]`."""
    if isinstance(denoiser, nn.Module) and hasattr(getattr(denoiser, "config", None), "get_text_config"):
        return MaskedLMDenoiser(denoiser)
    if isinstance(denoiser, (MaskedLMDenoiser, CallableDenoiser)):
        return denoiser
    if not callable(denoiser):
        raise TypeError(f"denoiser must be a masked LM or a callable, got {type(denoiser).__name__}")
    if "positions" in parameter_names(denoiser):
        return denoiser
    weights = next(denoiser.parameters(), None) if isinstance(denoiser, nn.Module) else None
    return CallableDenoiser(denoiser, getattr(denoiser, "device", "cpu") if weights is None else weights.device)
