"""Logits at gathered positions [n, V] -> token probabilities -> tokens; every parameter is one value a position [n].

Order: the mask is removed, then temperature, top-k, top-p. So the nucleus never holds the mask, and the token that crosses
top_p is kept, as in transformers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(
    logits: Tensor,
    mask_token_id: int,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
) -> Tensor:
    """Shaped theta [n, V], at least float32, each row summing to 1, with 0 at the mask. `logits` is left as it is.

    Args:
        temperature: [n] float; 0 is greedy. top_k: [n] int64; 0 keeps all. top_p: [n] float in (0, 1].
        None skips that stage for all rows.

    Raises:
        FloatingPointError: there is no distribution in the logits (NaN, or -inf everywhere).
    """
    logits = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32, copy=True)
    logits[:, mask_token_id] = -torch.inf
    if temperature is not None:
        greedy = logits >= logits.amax(-1, keepdim=True)
        first = torch.zeros_like(greedy).scatter_(-1, greedy.to(torch.uint8).argmax(-1, keepdim=True), True)
        # within what float32 can hold: a temperature beyond it is flat, one below it greedy, neither is NaN
        scale = temperature.clamp(1e-6, 1e30).to(logits.dtype).unsqueeze(-1)
        divided = (logits - logits.amax(-1, keepdim=True)) / scale
        logits = torch.where((temperature == 0).unsqueeze(-1), torch.where(first, 0.0, -torch.inf), divided)
    if top_k is not None:
        k = torch.where(top_k == 0, logits.shape[-1], top_k).clamp(max=logits.shape[-1])
        ranked = logits.sort(-1, descending=True).values
        logits = logits.masked_fill(logits < ranked.gather(-1, k.unsqueeze(-1) - 1), -torch.inf)
    theta = logits.softmax(-1)
    if theta.isnan().any():  # drawn from, it would give no token at all, or leave noise as it is
        raise FloatingPointError("the network's logits are NaN, or -inf for every token")
    return theta if top_p is None else _nucleus(theta, top_p)


def _nucleus(theta: Tensor, top_p: Tensor) -> Tensor:
    """Keeps the smallest set of most probable tokens whose sum reaches top_p, renormalised; top_p = 1 keeps all."""
    ranked, order = theta.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(-1) - ranked
    keep_all = (top_p >= 1).unsqueeze(-1)
    ranked = torch.where(
        keep_all | (before < top_p.to(theta.dtype).clamp(min=torch.finfo(theta.dtype).tiny).unsqueeze(-1)), ranked, 0.0
    )
    kept = torch.zeros_like(theta).scatter_(-1, order, ranked)
    return kept / kept.sum(-1, keepdim=True)


def inverse_cdf(theta: Tensor, u: Tensor) -> Tensor:
    """Token ids int64 [n] with the probabilities theta [n, V], one uniform u [n] in [0, 1) each.

    Summed in float64, so the tail keeps its share however large V is, and a token of probability 0 is never drawn.
    """
    cdf = theta.cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1]
    target = torch.minimum(u.double() * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, target.unsqueeze(-1), right=True).squeeze(-1)
