"""The vocabulary-sized part of the NELBO: log-probabilities without the mask, and the divergence under flat noise.

Both take raw logits [B, L, V] and never edit or copy them whole. `theta` is the softmax over all tokens but the mask: the
network is never asked whether a clean token is the mask ("zero masking probability", MDLM section 3.2.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 21
"""Logits that a temporary holds at a time; bounds memory whatever B, L and V are."""


def absorbing_cross_entropy(logits: Tensor, x: Tensor, mask_token_id: int) -> Tensor:
    """-ln theta_x: logits [B, L, V], x [B, L] -> [B, L], at least float32."""
    function = partial(_cross_entropy, mask_token_id=mask_token_id)
    (value,) = _Rowwise.apply(function, logits.flatten(0, 1), x.flatten())
    return value.view(x.shape)


def flat_noise_divergence(
    logits: Tensor, x: Tensor, z: Tensor, alpha: Tensor, each: Tensor, mask_token_id: int
) -> Tensor:
    """KL(q || p) + r - 1 - ln r for q_j = alpha 1[j = x] + each, p_j = alpha theta_j + each, r = q_z / p_z; [B, L].

    With a = alpha / each and e(v) = v - ln(1 + v), and because theta sums to 1 over the noise states,

        KL = each * [ a ln(1+a) - e(a) + sum_j e(a theta_j) - a ln(1 + a theta_x) ],        r - 1 - ln r = e(r - 1),

    where no term is the difference of near-equal ones, so that it keeps its digits as alpha -> 0 (where it is O(alpha^2) and the
    NELBO's weight O(1/alpha)). One reduction over the vocabulary.
    `alpha` and `each` are float64 [B, L], and so is the result; where z is the mask the r-term is 0, since q and p agree there.
    """
    a = (alpha / each).expand(x.shape)
    function = partial(_flat_noise_reductions, mask_token_id=mask_token_id)
    columns = _Rowwise.apply(function, logits.flatten(0, 1), x.flatten(), z.flatten(), a.flatten())
    total, log_x, log_z = (column.double().view(x.shape) for column in columns)
    kl = each * (a * torch.log1p(a) - excess(a) + total - a * torch.log1p(a * log_x.exp()))
    on_mask = z == mask_token_id
    log_z = torch.where(on_mask, -1.0, log_z)  # any finite value: the mask's own logit may be anything
    hit = torch.where(z == x, -torch.expm1(log_z), -log_z.exp())
    ratio = a * hit / (1 + a * log_z.exp())
    return kl + torch.where(on_mask, 0.0, excess(ratio))


def excess(v: Tensor) -> Tensor:
    """e(v) = v - ln(1 + v) for v > -1, by its series near 0 where the subtraction would leave nothing but rounding."""
    return _Excess.apply(v)


class _Excess(torch.autograd.Function):
    """e with e'(v) = v / (1 + v): exact on both branches, and nothing is kept for the backward pass but v."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        series = v * v * (1 / 2 - v * (1 / 3 - v * (1 / 4 - v * (1 / 5 - v * (1 / 6 - v / 7)))))
        return torch.where(v.abs() < 0.03, series, v - torch.log1p(v))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return gradient * (v / (1 + v))


def _cross_entropy(logits: Tensor, x: Tensor, mask_token_id: int) -> tuple[Tensor, ...]:
    """For rows [n, V]: -ln theta_x, [n]."""
    logits = _at_least_float32(logits)
    chosen = logits.gather(-1, x.unsqueeze(-1)).squeeze(-1)
    normaliser = _log_normaliser(logits, mask_token_id)
    return (normaliser.masked_fill(normaliser == torch.inf, torch.nan) - chosen,)  # with +inf there is no distribution


def _flat_noise_reductions(logits: Tensor, x: Tensor, z: Tensor, a: Tensor, mask_token_id: int) -> tuple[Tensor, ...]:
    """For rows [n, V]: sum_j e(a theta_j) over j != mask, ln theta_x, ln theta_z, each [n]."""
    logits = _at_least_float32(logits)
    normaliser = _log_normaliser(logits, mask_token_id).unsqueeze(-1)
    log_a = a.log().to(logits.dtype).unsqueeze(-1)
    total = torch.zeros_like(normaliser.squeeze(-1))
    for part in (logits[..., :mask_token_id], logits[..., mask_token_id + 1 :]):
        total = total + excess(torch.exp(part + (log_a - normaliser))).sum(-1)
    log_x = (logits.gather(-1, x.unsqueeze(-1)) - normaliser).squeeze(-1)
    log_z = (logits.gather(-1, z.unsqueeze(-1)) - normaliser).squeeze(-1)
    return total, log_x, log_z


def _log_normaliser(logits: Tensor, mask_token_id: int) -> Tensor:
    """log sum_j exp(logits_j) over j != mask, [n, V] -> [n]; two views instead of a masked copy."""
    return _LogNormaliser.apply(logits, mask_token_id)


class _LogNormaliser(torch.autograd.Function):
    """Its derivative is theta, finite whatever is -inf: one logit, all on a side of the mask, or the whole row, where it is 0.

    So a row that has no distribution does no harm at a position whose loss does not read it: there 0 times it is 0, not NaN.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask_token_id: int) -> Tensor:
        left, right = logits[..., :mask_token_id], logits[..., mask_token_id + 1 :]
        value = torch.logaddexp(torch.logsumexp(left, -1), torch.logsumexp(right, -1))
        ctx.mask_token_id = mask_token_id
        ctx.save_for_backward(logits, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, value = ctx.saved_tensors
        theta = torch.exp(logits - value.clamp(min=torch.finfo(value.dtype).min).unsqueeze(-1))
        theta[..., ctx.mask_token_id] = 0
        return theta.mul_(gradient.unsqueeze(-1)), None


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class _Rowwise(torch.autograd.Function):
    """function(logits [N, V], *others [N]) -> tensors [N], a chunk of rows at a time; differentiable in the logits.

    Nothing V-sized outlives its chunk: the backward pass computes each chunk again and writes its gradient where it
    belongs, so the gradient of the logits is the one tensor of their size. Checkpointed slices would each make another.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *arguments: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*arguments)
        chunks = [function(*chunk) for chunk in _chunks(*arguments)]
        return tuple(torch.cat(column) for column in zip(*chunks, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, *others = ctx.saved_tensors
        result = torch.empty_like(logits)
        for place, rows, *rest in _chunks(result, logits, *others, *gradients):
            rows = rows.detach().requires_grad_()
            with torch.enable_grad():
                outputs = ctx.function(rows, *rest[: len(others)])
            place.copy_(torch.autograd.grad(outputs, rows, rest[len(others) :])[0])
        return None, result, *(None for _ in others)


def _chunks(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of all tensors, as views, as many at a time as CHUNK_ELEMENTS allows."""
    rows = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    return zip(*(tensor.split(rows) for tensor in (logits, *others)), strict=True)
