"""From logits at planned positions to tokens: a row's own shaping, its own randomness, and what was written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.shaping import inverse_cdf, probabilities
from .randomness import Purpose, uniform
from .rows import SampleRows
from .sampler import Logits, Outcome, Plan, Vocabulary

MAX_ELEMENTS = {"cpu": 1 << 22}
"""Logits that are shaped together: shaping needs a few copies of them, which should neither fill the memory nor, on a CPU,
leave the cache."""


@dataclass(frozen=True)
class Draws:
    """What came of logits [n, V], on the CPU. tokens: int64 [n]. probability: float64 [n], the network's for the token there.

    logprob: float32 [n], the natural logarithm of the network's own probability, unshaped, of the token that was drawn; NaN where
    its row does not ask for it.
    """

    tokens: Tensor
    probability: Tensor
    logprob: Tensor


def draw(rows: SampleRows, plan: Plan, step: Tensor, logits: Logits, vocabulary: Vocabulary) -> Draws:
    """Tokens at the planned positions, by the rows' own shaping and their own randomness at `step` [R].

    No token is the mask or another that no sample may hold. This is the tick's wait for the device. Positions without a
    distribution keep their token, and their row has failed.
    """
    row, column = split(plan.positions, rows.tokens.shape[1])
    z = rows.tokens.view(-1)[plan.positions]
    u = uniform(rows.seed[row], rows.sample[row], step[row], column, Purpose.TOKEN)
    parts = []
    for some in pieces(logits):
        piece = logits[some]
        theta = shaped(rows, row[some], allowed(piece, vocabulary), vocabulary.mask_token_id)
        there = theta.gather(-1, z[some].to(theta.device).unsqueeze(-1)).squeeze(-1)
        tokens = inverse_cdf(theta, u[some].to(theta.device))
        logprob = own_logprob(rows, row[some], piece, tokens, vocabulary.mask_token_id)
        parts.append(torch.stack([tokens.double(), there.double(), logprob]))
    tokens, probability, logprob = torch.cat(parts, dim=1).cpu()
    lost = tokens < 0
    rows.failed[row[lost]] = True
    return Draws(torch.where(lost, z, tokens.long()), probability.nan_to_num(0.0), logprob.float())


def pieces(logits: Logits) -> list[slice]:
    """In which logits [n, V] are looked at one after the other, in order."""
    count = max(1, MAX_ELEMENTS.get(logits.device.type, 1 << 28) // logits.shape[1])
    return [slice(start, start + count) for start in range(0, logits.shape[0], count)]


def allowed(logits: Tensor, vocabulary: Vocabulary) -> Tensor:
    """The same [n, V], -inf for what no sample may hold; the mask is dealt with in shaping."""
    if not vocabulary.forbidden.numel():
        return logits
    return logits.index_fill(-1, vocabulary.forbidden.to(logits.device), -torch.inf)


def own_logprob(rows: SampleRows, row: Tensor, logits: Tensor, tokens: Tensor, mask_token_id: int) -> Tensor:
    """float64 [n]: of tokens [n] by the network's softmax of logits [n, V] without the mask; NaN where no row `row` [n] asks."""
    asked = rows.logprobs[row].to(logits.device)
    found = torch.full(tokens.shape, torch.nan, dtype=torch.float64, device=logits.device)
    if bool(rows.logprobs[row].any()):
        some = logits[asked].float().index_fill(-1, torch.tensor([mask_token_id], device=logits.device), -torch.inf)
        token = tokens[asked].clamp(min=0).unsqueeze(-1)
        found[asked] = some.gather(-1, token).squeeze(-1).double() - some.logsumexp(-1).double()
    return found


def shaped(rows: SampleRows, row: Tensor, logits: Tensor, mask_token_id: int) -> Tensor:
    """theta [n, V] with each position's own temperature, top-k, top-p and min-p; a stage that no row uses is not computed."""
    temperature, top_k, top_p, min_p = rows.temperature[row], rows.top_k[row], rows.top_p[row], rows.min_p[row]
    max_top_k = int(top_k.max())
    return probabilities(
        logits,
        mask_token_id,
        temperature.to(logits.device) if bool((temperature != 1).any()) else None,
        top_k.to(logits.device) if max_top_k > 0 else None,
        top_p.to(logits.device) if bool((top_p < 1).any()) else None,
        min_p.to(logits.device) if bool((min_p > 0).any()) else None,
        max_top_k,
    )


def split(positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Flat positions -> (row, column)."""
    return torch.div(positions, length, rounding_mode="floor"), positions % length


def put(rows: SampleRows, positions: Tensor, step: Tensor, tokens: Tensor, logprob: Tensor | None = None) -> Outcome:
    """Writes tokens [n] to flat `positions` [n], and beside those that change the step [R] of their row and their logprob [n].

    Where there is no `logprob` the token did not come from the network's distribution.
    """
    before = rows.tokens.view(-1)[positions]
    rows.tokens.view(-1)[positions] = tokens
    changed = tokens != before
    row, column = split(positions[changed], rows.tokens.shape[1])
    rows.step_map[row, column] = step[row]
    rows.logprob[row, column] = torch.nan if logprob is None else logprob[changed]
    return Outcome(row, column, tokens[changed])


def rank(key: Tensor, among: Tensor) -> Tensor:
    """1-based rank of each key within its row, counting only positions in `among`; [R, L] -> int64 [R, L]."""
    order = torch.where(among, key, torch.inf).argsort(dim=1, stable=True)
    ranks = torch.arange(1, key.shape[1] + 1, device=key.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks)
