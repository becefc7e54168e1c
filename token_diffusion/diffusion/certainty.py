"""How sure the network is at each position: logits or probabilities [n, V] -> a few numbers a position, in one reading.

Made to be cheap beside a forward pass: one exponential a token, and no index carried along, which are what most of the time would
go to. On a CPU a caller gives it no more at a time than stays in the cache. Nothing here waits for an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 128
"""Tokens looked at together on the first level of a search or a sum."""


@dataclass(frozen=True)
class Certainty:
    """Of n distributions, on their device. Where there is none (NaN, +inf, or -inf everywhere), all but the token is NaN.

    token: int64, the most probable one, the first of several. largest, second: float, its probability and the next one's, which
    may be the same. entropy: float, in nats. What was not asked for is NaN.
    """

    token: Tensor
    largest: Tensor
    second: Tensor
    entropy: Tensor


def certainty_of_logits(
    logits: Tensor, mask_token_id: int, margin: bool = True, entropy: bool = True, unmask: bool = False
) -> Certainty:
    """Of the softmax of logits [n, V] without the mask, at least in float32. `logits` is left as it is.

    Args:
        margin: whether `second` is wanted, entropy: whether that is.
        unmask: the mask's own may be set to -inf in `logits`, which saves a copy of all.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=not unmask)
    logits[:, mask_token_id] = -torch.inf
    theta = logits.softmax(-1)
    token, first, next_one = largest_of(logits, margin)
    largest = theta.gather(-1, token.unsqueeze(-1)).squeeze(-1)
    second = nats = torch.full_like(largest, torch.nan)
    if margin:
        second = largest * (next_one - first).exp()
    if entropy:
        below = (logits - first.unsqueeze(-1)).clamp_(min=torch.finfo(logits.dtype).min)  # 0 * -inf is no 0
        nats = (-largest.log() - _sums(theta.mul_(below))).clamp(min=0)
    return Certainty(token, largest, second, nats)


def certainty_of(theta: Tensor, margin: bool = True, entropy: bool = True) -> Certainty:
    """Of probabilities [n, V], each row summing to 1, as `certainty_of_logits`."""
    token, largest, second = largest_of(theta, margin)
    nats = torch.full_like(largest, torch.nan)
    if entropy:
        nats = -_sums(theta.clamp(min=torch.finfo(theta.dtype).tiny).log_().mul_(theta)) + 0.0  # no -0
    return Certainty(token, largest, second, nats)


def largest_of(values: Tensor, margin: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The index of the first of the largest entries of [n, V], itself, and the next one (NaN unless there is to be a `margin`).

    By the largest of each chunk and then within one of them: a search that carries an index along is ten times slower.
    """
    last = values.shape[-1] - 1
    peaks = _by_chunk(values, lambda chunks: chunks.amax(-1))
    largest, chunk = peaks.max(-1, keepdim=True)
    index = chunk * CHUNK + torch.arange(CHUNK, device=values.device)
    inside = values.gather(-1, index.clamp(max=last)).masked_fill_(index > last, -torch.inf)
    token = (chunk * CHUNK + inside.argmax(-1, keepdim=True)).clamp(max=last)
    second = torch.full_like(largest, torch.nan)
    if margin:
        beside = peaks.scatter(-1, chunk, -torch.inf).amax(-1, keepdim=True)
        second = torch.maximum(inside.topk(2, -1).values[:, 1:], beside)
    return token.squeeze(-1), largest.squeeze(-1), second.squeeze(-1)


def _sums(values: Tensor) -> Tensor:
    """Of each row of [n, V], in two levels: how a CPU sums one long row depends on how many there are."""
    return _by_chunk(values, lambda chunks: chunks.sum(-1)).sum(-1)


def _by_chunk(values: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """What `reduce` makes of each `CHUNK` entries, [n, V] -> [n, ceil(V / CHUNK)]."""
    whole = values.shape[-1] - values.shape[-1] % CHUNK
    found = reduce(values[:, :whole].unflatten(1, (-1, CHUNK)))
    return torch.cat([found, reduce(values[:, whole:].unsqueeze(1))], 1) if whole < values.shape[-1] else found
