"""From logits at planned positions to tokens: a row's own shaping, its own randomness, and what was written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..diffusion.certainty import largest_of
from ..diffusion.devices import sent
from ..diffusion.shaping import inverse_cdf, probabilities
from .randomness import Purpose, uniform
from .rows import SampleRows
from .sampler import Given, Logits, Outcome, Plan, Vocabulary, own

MAX_ELEMENTS = {"cpu": 1 << 22}
"""Logits that are shaped together: shaping needs a few copies of them, which should neither fill the memory nor, on a CPU,
leave the cache."""


@dataclass(frozen=True)
class Draws:
    """What came of logits [n, V], on the CPU. tokens: int64 [n].

    probability, drawn: float64 [n], of the token there and of the one that was drawn, shaped as they were for the draw.
    logprob: float32 [n], the natural logarithm of the network's own probability, unshaped, of the token that was drawn; NaN where
    its row does not ask for it. best: int64 [n], the most probable token as it was shaped; empty unless the caller asks for it.
    """

    tokens: Tensor
    probability: Tensor
    drawn: Tensor
    logprob: Tensor
    best: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


def draw(
    rows: SampleRows, plan: Plan, step: Tensor, logits: Logits, vocabulary: Vocabulary, with_best: bool = False
) -> Draws:
    """Tokens at the planned positions, by the rows' own shaping and their own randomness at `step` [R].

    No token is the mask or another that no sample may hold. This is the tick's wait for the device. Positions without a
    distribution keep their token, and their row has failed.
    """
    row, column = split(plan.positions, rows.tokens.shape[1])
    z = rows.tokens.view(-1)[plan.positions]
    u = uniform(rows.seed[row], rows.sample[row], step[row], column, Purpose.TOKEN)
    parts, is_told = [], bool(rows.logprobs.any())
    is_spare = isinstance(logits, (Given, Some)) and not is_told
    for some in pieces(logits):
        piece = logits[some]
        ours = piece.to(torch.promote_types(piece.dtype, torch.float32), copy=not is_spare)
        allow(rows, row[some], ours, vocabulary)
        theta = shaped(rows, row[some], ours, vocabulary.mask_token_id, overwrite=True)
        there = theta.gather(-1, sent(z[some], theta.device).unsqueeze(-1)).squeeze(-1)
        tokens = inverse_cdf(theta, sent(u[some], theta.device))
        drawn = theta.gather(-1, tokens.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        unshaped = own(logits)[some] if is_told else piece
        logprob = own_logprob(rows, row[some], unshaped, tokens, vocabulary.mask_token_id)
        best = [largest_of(theta)[0].double()] if with_best else []
        parts.append(torch.stack([tokens.double(), there.double(), drawn.double(), logprob, *best]))
    tokens, probability, drawn, logprob, *told = torch.cat(parts, dim=1).cpu()
    lost = tokens < 0
    rows.failed[row[lost]] = True
    return Draws(
        torch.where(lost, z, tokens.long()),
        probability.nan_to_num(0.0),
        drawn.nan_to_num(0.0),
        logprob.float(),
        *(best.long() for best in told),
    )


def pieces(logits: Logits, on_cpu: int | None = None) -> list[slice]:
    """In which logits [n, V] are looked at one after the other, in order.

    on_cpu: elements of a piece on a CPU, `MAX_ELEMENTS` by default.
    """
    most = MAX_ELEMENTS | ({} if on_cpu is None else {"cpu": on_cpu})
    count = max(1, most.get(logits.device.type, 1 << 28) // logits.shape[1])
    return [slice(start, start + count) for start in range(0, logits.shape[0], count)]


class Some:
    """Logits at some positions alone, ascending `index` int64 [m] into all of them, to be looked at in slices as those are.

    A slice is made anew, and so is its reader's to write over.
    """

    def __init__(self, logits: Logits, index: Tensor) -> None:
        self.device, self.shape = logits.device, (len(index), logits.shape[1])
        self._logits: Any = logits
        self._index = index

    @property
    def own(self) -> Logits:
        return Some(own(self._logits), self._index)

    def __getitem__(self, some: slice) -> Tensor:
        index, parts = self._index[some], []
        if not hasattr(self._logits, "slices"):
            plain = isinstance(self._logits, Tensor)  # else a mixture of them, which looks up its own
            found: Tensor = self._logits[sent(index, self.device) if plain else index]
            return found
        for each in self._logits.slices:
            start, stop, _ = each.indices(self._logits.shape[0])
            inside = index[(index >= start) & (index < stop)] - start
            if inside.numel():
                parts.append(self._logits[each][sent(inside, self.device)])
        return torch.cat(parts)


def allowed(rows: SampleRows, row: Tensor, logits: Tensor, vocabulary: Vocabulary) -> Tensor:
    """The same [n, V] after `allow`; what was given is left as it is."""
    if vocabulary.forbidden.numel() or bool(rows.suppress_end[row].any()):
        logits = logits.clone()
        allow(rows, row, logits, vocabulary)
    return logits


def allow(rows: SampleRows, row: Tensor, logits: Tensor, vocabulary: Vocabulary) -> None:
    """-inf, in place, for what positions [n] in rows `row` [n] may not hold; the mask is dealt with in shaping."""
    if vocabulary.forbidden.numel():
        logits.index_fill_(-1, sent(vocabulary.forbidden, logits.device), -torch.inf)
    suppressed = rows.suppress_end[row]
    if bool(suppressed.any()):
        ends, endless = sent(vocabulary.ends, logits.device), sent(suppressed, logits.device).unsqueeze(-1)
        logits.index_copy_(-1, ends, logits[:, ends].masked_fill(endless, -torch.inf))


def own_logprob(rows: SampleRows, row: Tensor, logits: Tensor, tokens: Tensor, mask_token_id: int) -> Tensor:
    """float64 [n]: of tokens [n] by the network's softmax of logits [n, V] without the mask; NaN where no row `row` [n] asks."""
    asked = rows.logprobs[row].nonzero().squeeze(1)
    found = torch.full(tokens.shape, torch.nan, dtype=torch.float64, device=logits.device)
    if asked.numel():
        at = sent(asked, logits.device)
        some = logits[at].float()
        some[:, mask_token_id] = -torch.inf
        token = tokens[at].clamp(min=0).unsqueeze(-1)
        found[at] = some.gather(-1, token).squeeze(-1).double() - some.logsumexp(-1).double()
    return found


def shaped(rows: SampleRows, row: Tensor, logits: Tensor, mask_token_id: int, overwrite: bool = False) -> Tensor:
    """theta [n, V] with each position's own temperature, top-k, top-p and min-p; a stage that no row uses is not computed.

    overwrite: whether `logits` may be written over.
    """
    temperature, top_k, top_p, min_p = rows.temperature[row], rows.top_k[row], rows.top_p[row], rows.min_p[row]
    max_top_k = int(top_k.max())
    return probabilities(
        logits,
        mask_token_id,
        sent(temperature, logits.device) if bool((temperature != 1).any()) else None,
        sent(top_k, logits.device) if max_top_k > 0 else None,
        sent(top_p, logits.device) if bool((top_p < 1).any()) else None,
        sent(min_p, logits.device) if bool((min_p > 0).any()) else None,
        max_top_k,
        greedy=bool((temperature == 0).any()),
        overwrite=overwrite,
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
