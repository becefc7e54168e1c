"""How sure the network is at each position: logits or probabilities [n, V] -> a few numbers a position, in one reading.

Made to be cheap beside a forward pass: a piece at a time goes through what a CPU does in its cache, with one exponential a token
and no index carried along, which are what most of the time would go to. Nothing here waits for an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .shaping import CHUNK

ELEMENTS = {"cpu": 1 << 18}
"""Logits that are looked at together: on a CPU what stays in the cache of one core, with a copy."""


@dataclass(frozen=True)
class Certainty:
    """Of n distributions, on their device; NaN, and token 0, where there is none.

    token: int64, the most probable one, the first of several. largest, second: float, its probability and the next one's, which is
    the same if two have it. entropy: float, in nats.
    """

    token: Tensor
    largest: Tensor
    second: Tensor
    entropy: Tensor


def certainty_of_logits(logits: Tensor, removed: Tensor, margin: bool = True, entropy: bool = True) -> Certainty:
    """Of the softmax of logits [n, V] without the tokens `removed` int64 [k], at least in float32. `logits` is left as it is.

    Args:
        margin: whether `second` is wanted, entropy: whether that is; else they are NaN.
    """
    parts = []
    for piece in _pieces(logits):
        x = piece.to(torch.float64 if piece.dtype == torch.float64 else torch.float32, copy=True)
        x.index_fill_(-1, removed, -torch.inf)
        theta = x.softmax(-1)
        token, largest, second = _largest(theta, margin)
        nats = torch.full_like(largest, torch.nan)
        if entropy:
            x.sub_(x.gather(-1, token.unsqueeze(-1))).clamp_(min=torch.finfo(x.dtype).min)  # not 0 * inf
            nats = (-largest.log() - _sums(theta.mul_(x))).clamp(min=0)
        parts.append((token, largest, second, nats))
    return Certainty(*(torch.cat(each) for each in zip(*parts, strict=True)))


def certainty_of(theta: Tensor, margin: bool = True, entropy: bool = True) -> Certainty:
    """Of probabilities [n, V], each row summing to 1, as `certainty_of_logits`."""
    parts = []
    for piece in _pieces(theta):
        token, largest, second = _largest(piece, margin)
        nats = torch.full_like(largest, torch.nan)
        if entropy:
            nats = -_sums(piece * piece.clamp(min=torch.finfo(piece.dtype).tiny).log())
        parts.append((token, largest, second, nats))
    return Certainty(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _pieces(values: Tensor) -> Iterator[Tensor]:
    """Some rows of [n, V] at a time, at least one piece."""
    size = max(1, ELEMENTS.get(values.device.type, 1 << 28) // values.shape[1])
    return (values[start : start + size] for start in range(0, max(1, len(values)), size))


def _largest(theta: Tensor, margin: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The first of the largest entries, itself, and the next one (NaN unless there is to be a `margin`).

    By the largest of each chunk and then within one of them: a search that carries an index along is ten times slower.
    """
    peaks = _by_chunk(theta, lambda chunks: chunks.amax(-1))
    largest, chunk = peaks.max(-1, keepdim=True)
    index = chunk * CHUNK + torch.arange(CHUNK, device=theta.device)
    inside = theta.gather(-1, index.clamp(max=theta.shape[-1] - 1)).masked_fill_(index >= theta.shape[-1], -1.0)
    token = (chunk * CHUNK + inside.argmax(-1, keepdim=True)).clamp(max=theta.shape[-1] - 1)
    second = torch.full_like(largest, torch.nan)
    if margin:
        beside = peaks.scatter(-1, chunk, -1.0).amax(-1, keepdim=True)
        second = torch.maximum(inside.topk(2, -1).values[:, 1:], beside).clamp(min=0)
    token = token.masked_fill(largest.isnan(), 0)
    return token.squeeze(-1), largest.squeeze(-1), second.squeeze(-1)


def _sums(values: Tensor) -> Tensor:
    """Of each row of [n, V], in two levels: how a CPU sums one long row depends on how many there are."""
    return _by_chunk(values, lambda chunks: chunks.sum(-1)).sum(-1)


def _by_chunk(values: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """What `reduce` makes of each `CHUNK` entries, [n, V] -> [n, ceil(V / CHUNK)]."""
    whole = values.shape[-1] - values.shape[-1] % CHUNK
    found = reduce(values[:, :whole].unflatten(1, (-1, CHUNK)))
    return torch.cat([found, reduce(values[:, whole:].unsqueeze(1))], 1) if whole < values.shape[-1] else found
