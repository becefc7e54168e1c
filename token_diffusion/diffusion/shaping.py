"""Logits at gathered positions [n, V] -> token probabilities -> tokens; every parameter is one value a position [n].

Order: the mask is removed, then temperature, top-k, top-p, min-p. So the nucleus never holds the mask, and the token that
crosses top_p is kept, as in transformers. (vLLM takes min-p before top-p, and so top-p of what is left; where one of the two is
not used that is the same.) Nothing here waits for an accelerator.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .certainty import CHUNK, largest_of

_ITERATIONS = {torch.float32: 31, torch.float64: 63}
"""Halvings that find one float among all that are not negative."""


def probabilities(
    logits: Tensor,
    mask_token_id: int,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    max_top_k: int | None = None,
    greedy: bool = True,
    overwrite: bool = False,
) -> Tensor:
    """Shaped theta [n, V], at least float32, each row summing to 1, with 0 at the mask. `logits` is left as it is, unless it may
    be overwritten: then it may be what is returned.

    A row without a distribution in it (NaN, +inf, or -inf everywhere) is NaN throughout.

    Args:
        temperature: [n] float; 0 is greedy. top_k: [n] int64; 0 keeps all. top_p: [n] float in (0, 1]. min_p: [n] float in
            [0, 1]. None skips that stage for all rows, which is to the last bit what a value that keeps all does for one.
        max_top_k: the largest of top_k where the caller knows it, which saves asking the device.
        greedy: whether a temperature may be 0; to look for the most probable token is most of what a temperature takes.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=not overwrite)
    logits[:, mask_token_id] = -torch.inf
    if temperature is not None:
        _divide(logits, temperature, greedy)
    if top_k is not None:
        _keep_top(logits, top_k, int(top_k.max()) if max_top_k is None else max_top_k)
    # To a CPU new memory costs about as much as the softmax. Each of its rows is read before it is written.
    in_place = logits.device.type == "cpu" and not logits.requires_grad
    theta = torch.softmax(logits, -1, out=logits) if in_place else logits.softmax(-1)
    if top_p is not None:
        theta = _nucleus(theta, top_p)
    return theta if min_p is None else _likely(theta, min_p)


def _divide(logits: Tensor, temperature: Tensor, greedy: bool) -> None:
    """By the temperature, in place; where that is 0 only the first of the largest stays."""
    best = largest_of(logits)[0].unsqueeze(-1) if greedy else None
    peak = logits.amax(-1, keepdim=True)
    # within what float32 can hold: a temperature beyond it is flat, one below it greedy, neither is NaN
    logits.sub_(peak).div_(temperature.clamp(1e-6, 1e30).to(logits.dtype).unsqueeze(-1))
    if best is not None:
        is_greedy = (temperature == 0).unsqueeze(-1)
        kept = torch.where(is_greedy, peak - peak, logits.gather(-1, best))  # NaN, not 0, where the peak is no number
        logits.masked_fill_(is_greedy, -torch.inf).scatter_(-1, best, kept)


def _keep_top(logits: Tensor, top_k: Tensor, largest: int) -> None:
    """Sets all but the top_k largest to -inf, in place; ties of the last one stay."""
    largest = max(1, min(largest, logits.shape[-1]))
    ranked = logits.topk(largest, dim=-1).values
    last = ranked.gather(-1, top_k.clamp(1, largest).unsqueeze(-1) - 1)
    logits.masked_fill_((logits < last) & (top_k > 0).unsqueeze(-1), -torch.inf)


def _nucleus(theta: Tensor, top_p: Tensor) -> Tensor:
    """Keeps the smallest set of most probable tokens whose sum reaches top_p, renormalised; top_p = 1 keeps all.

    Of several tokens with the probability of the one that crosses, the first are kept, as many as are needed.
    """
    p = top_p.to(theta.dtype).clamp(min=torch.finfo(theta.dtype).tiny)
    crossing = torch.where(top_p >= 1, 0.0, _crossing(theta, p)).unsqueeze(-1)
    ties, keep = theta == crossing, theta >= crossing
    if theta.device.type != "cpu" or bool((ties.sum(-1) > 1).any()):
        missing = p - _sums(torch.where(keep & ~ties, theta, 0.0)).sum(-1)
        count = (missing.unsqueeze(-1) / crossing).ceil().clamp(min=1)  # inf where nothing crosses: all are kept
        keep &= ~ties | (ties.cumsum(-1) <= count)
    return _renormalised(theta.masked_fill(~keep, 0.0), top_p < 1)


def _likely(theta: Tensor, min_p: Tensor) -> Tensor:
    """Keeps the tokens with at least min_p times the probability of the most probable one, renormalised; 0 keeps all."""
    least = min_p.to(theta.dtype).unsqueeze(-1) * theta.amax(-1, keepdim=True)
    return _renormalised(theta.masked_fill(theta < least, 0.0), min_p > 0)


def _renormalised(kept: Tensor, which: Tensor) -> Tensor:
    """In place, those rows alone: the others are as they were, whatever the rounding of their sum. What was NaN is so again."""
    sums = _sums(kept).sum(-1)
    return kept.div_(sums.masked_fill(~which & (sums > 0), 1.0).unsqueeze(-1))  # 0 / 0 where nothing was kept


def _crossing(theta: Tensor, p: Tensor) -> Tensor:
    """The probability [n] of the token with which the sum of the most probable ones reaches p."""
    return _sorted(theta, p) if theta.device.type == "cpu" else _bisect(theta, p)


def _sorted(theta: Tensor, p: Tensor) -> Tensor:
    """By numpy's sort, which is vectorised: ten times faster on a CPU than torch's, and than bisection."""
    ascending = np.sort(theta.detach().numpy(), axis=-1)
    below = ascending.cumsum(-1, dtype=np.float64)
    spare = below[:, -1:] - p.double().unsqueeze(-1).numpy()  # NaN where theta is, and nothing is below that
    unneeded = (below <= spare).sum(-1, keepdims=True)
    crossing = np.take_along_axis(ascending, unneeded.clip(max=theta.shape[-1] - 1), axis=-1)
    return torch.from_numpy(crossing).squeeze(-1)


def _bisect(theta: Tensor, p: Tensor) -> Tensor:
    """By bisection over the bits of a float, which are ordered as the floats are: on an accelerator cheaper than sorting."""
    bits = theta.view(torch.int32 if theta.dtype == torch.float32 else torch.int64)
    # what is below (1 - p) / V sums to less than 1 - p, so the one that crosses is not among it
    low = ((1 - p).clamp(min=0) / theta.shape[-1]).view(bits.dtype)
    high = bits.amax(-1) + 1
    for _ in range(_ITERATIONS[theta.dtype]):
        middle = low + (high - low) // 2
        enough = torch.where(bits >= middle.unsqueeze(-1), theta, 0.0).sum(-1) >= p
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low.view(theta.dtype)


def inverse_cdf(theta: Tensor, u: Tensor) -> Tensor:
    """Token ids int64 [n] with the probabilities theta [n, V], one uniform u [n] in [0, 1) each; -1 where theta is NaN.

    In two levels, the sums of chunks and then the tokens of one chunk, both accumulated in float64: so the tail keeps its
    share however large V is, a token of probability 0 is never drawn, and no second [n, V] is written.
    """
    vocab_size, sums = theta.shape[-1], _sums(theta)
    cdf = sums.double().cumsum(-1)
    chunk, rest = _find(cdf, u.to(theta.device).double() * cdf[:, -1])
    token = chunk.unsqueeze(-1) * CHUNK + torch.arange(CHUNK, device=theta.device)
    inside = theta.gather(-1, token.clamp(max=vocab_size - 1)).double()
    cdf_inside = inside.masked_fill(token >= vocab_size, 0.0).cumsum(-1)
    share = cdf_inside[:, -1] / sums.gather(-1, chunk.unsqueeze(-1)).squeeze(-1).double()
    drawn = chunk * CHUNK + _find(cdf_inside, rest * share)[0]
    return torch.where(cdf[:, -1] > 0, drawn, -1)


def _sums(theta: Tensor) -> Tensor:
    """Of each `CHUNK` tokens, [n, V] -> [n, ceil(V / CHUNK)].

    Small enough that a CPU never splits a sum over threads, which it would do for one long row and not for several: the
    rounding of a row must not depend on how many there are.
    """
    whole = theta.shape[-1] - theta.shape[-1] % CHUNK
    sums = theta[:, :whole].unflatten(1, (-1, CHUNK)).sum(-1)
    return torch.cat([sums, theta[:, whole:].sum(-1, keepdim=True)], dim=1) if whole < theta.shape[-1] else sums


def _find(cdf: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first index of each row [n, K] whose cumulative sum exceeds the target [n], and how far the target is into it."""
    total = cdf[:, -1]
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cdf, target.unsqueeze(-1), right=True).clamp(max=cdf.shape[1] - 1)
    before = F.pad(cdf, (1, 0)).gather(-1, index)
    return index.squeeze(-1), target - before.squeeze(-1)
