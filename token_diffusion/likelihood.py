"""The vocabulary-sized part of the NELBO: log-probabilities without the mask, and the divergence under flat noise.

Both take raw logits [B, L, V] and never edit or copy them whole. `theta` is the softmax over all tokens but the mask: the
network is never asked whether a clean token is the mask ("zero masking probability", MDLM section 3.2.3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 24
"""Logits held in float32 temporaries at a time; bounds memory whatever B, L and V are."""


def _log_normaliser(logits: Tensor, mask_token_id: int) -> Tensor:
    """log sum_j exp(logits_j) over j != mask, [..., V] -> [...]; two views instead of a masked copy."""
    left, right = logits[..., :mask_token_id], logits[..., mask_token_id + 1 :]
    if left.shape[-1] == 0:
        return torch.logsumexp(right, -1)
    if right.shape[-1] == 0:
        return torch.logsumexp(left, -1)
    return torch.logaddexp(torch.logsumexp(left, -1), torch.logsumexp(right, -1))


def absorbing_cross_entropy(logits: Tensor, x: Tensor, mask_token_id: int) -> Tensor:
    """-ln theta_x: logits [B, L, V], x [B, L] -> [B, L], at least float32."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    chosen = logits.gather(-1, x.unsqueeze(-1)).squeeze(-1)
    return _log_normaliser(logits, mask_token_id) - chosen


def excess(v: Tensor) -> Tensor:
    """v - ln(1 + v) for v > -1, by its series near 0 where the subtraction would leave nothing but rounding."""
    w = v.clamp(-0.03, 0.03)  # the branch not taken must stay finite too, or its gradient is 0 * inf
    series = w * w * (1 / 2 - w * (1 / 3 - w * (1 / 4 - w * (1 / 5 - w * (1 / 6 - w / 7)))))
    return torch.where(v.abs() < 0.03, series, v - torch.log1p(v))


def _reduce_chunk(logits: Tensor, x: Tensor, z: Tensor, a: Tensor, mask_token_id: int) -> tuple[Tensor, ...]:
    """For rows [n, V]: sum_j excess(a theta_j) over j != mask, ln theta_x, ln theta_z, each [n]."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    normaliser = _log_normaliser(logits, mask_token_id).unsqueeze(-1)
    log_a = a.log().to(logits.dtype).unsqueeze(-1)
    total = torch.zeros_like(normaliser.squeeze(-1))
    for part in (logits[..., :mask_token_id], logits[..., mask_token_id + 1 :]):
        total = total + excess(torch.exp(part - normaliser + log_a)).sum(-1)
    log_x = (logits.gather(-1, x.unsqueeze(-1)) - normaliser).squeeze(-1)
    log_z = (logits.gather(-1, z.unsqueeze(-1)) - normaliser).squeeze(-1)
    return total, log_x, log_z


def flat_noise_divergence(
    logits: Tensor, x: Tensor, z: Tensor, alpha: Tensor, each: Tensor, mask_token_id: int
) -> Tensor:
    """KL(q || p) + r - 1 - ln r for q_j = alpha 1[j = x] + each, p_j = alpha theta_j + each, r = q_z / p_z; [B, L].

    With a = alpha / each and e(v) = v - ln(1 + v), and because theta sums to 1 over the noise states,

        KL = each * [ a ln(1+a) - e(a) + sum_j e(a theta_j) - a ln(1 + a theta_x) ],        r - 1 - ln r = e(r - 1),

    where no term is the difference of near-equal ones, so that it keeps its digits as alpha -> 0 (where it is O(alpha^2) and the
    NELBO's weight O(1/alpha)). One reduction over the vocabulary, chunked and recomputed in the backward pass.
    `alpha` and `each` are float64 [B, L], and so is the result; where z is the mask the r-term is 0, since q and p agree there.
    """
    a = alpha / each
    flat_logits, flat_x, flat_z, flat_a = logits.flatten(0, 1), x.flatten(), z.flatten(), a.expand(x.shape).flatten()
    rows = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    parts: list[Any] = []
    for start in range(0, flat_x.numel(), rows):
        here = slice(start, start + rows)
        arguments = flat_logits[here], flat_x[here], flat_z[here], flat_a[here], mask_token_id
        if torch.is_grad_enabled() and logits.requires_grad:
            parts.append(checkpoint(_reduce_chunk, *arguments, use_reentrant=False))
        else:
            parts.append(_reduce_chunk(*arguments))
    total, log_x, log_z = (torch.cat(column).double().view(x.shape) for column in zip(*parts, strict=True))
    kl = each * (a * torch.log1p(a) - excess(a) + total - a * torch.log1p(a * log_x.exp()))
    on_mask = z == mask_token_id
    log_z = torch.where(on_mask, -1.0, log_z)  # any finite value: the mask's own logit may be anything
    hit = torch.where(z == x, -torch.expm1(log_z), -log_z.exp())
    ratio = a * hit / (1 + a * log_z.exp())
    return kl + torch.where(on_mask, 0.0, excess(ratio))
