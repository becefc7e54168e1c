"""Scoring: a text's bound, -ln p(text) at most, from what the network says of it at several times, in nats a token.

Each row holds the text whole and shows the network one noised version of it, the row's number k = 0 .. K - 1 being its share of
time: u is drawn from ((K - k - 1) / K, (K - k) / K], so that together the rows cover (0, 1]. A row is asked once, where the
bound reads the logits, and has then finished; one whose noise has hit nothing is not asked at all.

A block-causal network gives each block its law given the blocks before it, and the bound is the sum of theirs: a row is then
asked once for each block, at a time of its own, with that block noised and those before it clean; it does not see those behind.

Times are t = u^p, p one more than `time_power`: a token that noise hits with probability t^h weighs 1/t, so the variance of its
p u^(p-1) / t is the integral of u^(ph - 2), infinite for p = 1/h, which is that power. Over a validation set that is no more than
a logarithm; of a single text, rare and huge values would make most of the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..diffusion.devices import sent
from ..diffusion.processes import Absorbing, Process, forward
from ..diffusion.scheduler import MIN_T
from ..diffusion.times import time_of_count, time_power
from ..errors import ParameterError
from .draws import rank, split
from .parameters import Estimator, ScoringParameters
from .randomness import Purpose, uniform
from .rows import Rows
from .sampler import Logits, Outcome, Plan, Vocabulary, slices


@dataclass
class ScoreRows(Rows):
    """Rows of texts, `open` where they are scored.

    block: int64 [R, L], the block that a position belongs to. noisy: int64 [R, L], the text with all blocks noised.
    t, weight: float64 [R, L], the time of a position's block, and one over that time's density.
    due: bool [R, L], positions that the network has yet to be asked for.
    values: float64 [R, L], nats of each token, summed over the rows of a text num_times times the bound; 0 where it is not open.
    """

    CHANGING: ClassVar[tuple[str, ...]] = ("nfe", "left", "failed", "finished", "due", "values")

    block: Tensor
    noisy: Tensor
    t: Tensor
    weight: Tensor
    due: Tensor
    values: Tensor


def estimator_of(process: Process, asked: Estimator | None) -> Estimator:
    """The one that was asked for, or else the one with the smaller error. Raises `ParameterError` if there is none such."""
    if asked == "counts" and not isinstance(process, Absorbing):
        raise ParameterError("estimator", f"be times for the {process.name} process", asked)
    return asked or ("counts" if isinstance(process, Absorbing) else "times")


class Scoring:
    """The rows of texts whose bound is asked for, of any process."""

    views = 1

    def __init__(self, process: Process, vocabulary: Vocabulary | None = None) -> None:
        self.process = process

    def check(self, parameters: ScoringParameters) -> None:
        """Counts are counted where noise is a mask."""
        estimator_of(self.process, parameters.estimator)

    def evaluations(self, tokens: Sequence[int], parameters: ScoringParameters) -> int:
        """One for each block with anything to score."""
        size, given = parameters.block_size or len(tokens), set(parameters.given)
        return len({position // size for position in range(len(tokens)) if position not in given})

    def rows(self, tokens: Sequence[int], parameters: ScoringParameters) -> ScoreRows:
        count, text = parameters.num_times, torch.tensor(tokens, dtype=torch.int64)
        if bool((text < 0).any()):
            raise ParameterError("tokens", "be a text without holes", int(text.min()))
        is_open = torch.ones_like(text, dtype=torch.bool)
        is_open[list(parameters.given)] = False
        block = torch.arange(len(text)) // (parameters.block_size or len(text))
        noisy, t, weight = self._noised(text, is_open, block, parameters)

        nats = torch.zeros(len(text), dtype=torch.float64).masked_fill(is_open, self.process.prior_divergence)

        def each(value: float, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.full((count,), value, dtype=dtype)

        return ScoreRows(
            tokens=text.repeat(count, 1),
            valid=torch.ones(count, len(text), dtype=torch.bool),
            open=is_open.repeat(count, 1),
            seed=each(parameters.seed),
            sample=torch.arange(count),
            label=each(-1 if parameters.label is None else parameters.label),
            nfe=each(0),
            left=each(self.evaluations(tokens, parameters)),
            failed=each(False, torch.bool),
            finished=each(False, torch.bool),
            block=block.repeat(count, 1),
            noisy=noisy,
            t=t,
            weight=weight,
            due=is_open & self.process.reads(noisy),
            values=nats.repeat(count, 1),
        )

    def visible(self, rows: ScoreRows) -> Tensor:
        return rows.valid

    def plan(self, rows: ScoreRows) -> Plan:
        rows.finished.copy_(~rows.due.any(1))
        rows.left.masked_fill_(rows.finished, 0)
        last = rows.block.amax(1, keepdim=True)
        here = rows.block == torch.where(rows.due, rows.block, last).amin(1, keepdim=True)
        asked, t = rows.due & here, torch.where(here, rows.t, 0.0).amax(1)
        return Plan(asked.flatten().nonzero().squeeze(1), t, tokens=torch.where(here, rows.noisy, rows.tokens))

    def commit(self, rows: ScoreRows, plan: Plan, logits: Logits) -> Outcome:
        at = plan.positions
        row, _ = split(at, rows.tokens.shape[1])
        x, z, t, weight = (each.view(-1)[at] for each in (rows.tokens, rows.noisy, rows.t, rows.weight))
        weights = self.process.weights(x, z, t)["elbo"] * weight
        on_device = [sent(each.unsqueeze(0), logits.device) for each in (x, z, t)]
        parts = [
            self.process.divergence(logits[some].unsqueeze(0), *(each[:, some] for each in on_device))[0]
            for some in slices(logits)
        ]
        divergence = torch.cat(parts).double().cpu()
        values = weights * divergence
        rows.failed[row[values.isnan()]] = True
        rows.values.view(-1)[at] += values
        rows.due.view(-1)[at] = False
        rows.finished.copy_(~rows.due.any(1))
        rows.left.copy_(torch.where(rows.finished, 0, rows.left - 1))
        return Outcome.none()

    def _noised(
        self, text: Tensor, is_open: Tensor, block: Tensor, parameters: ScoringParameters
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A text [L] with each of its blocks noised at each time, int64 [K, L], the time of a position's block and its weight."""
        zero, sample = torch.zeros(1, 1, dtype=torch.int64), torch.arange(parameters.num_times).unsqueeze(1)
        seed, position = torch.full_like(sample, parameters.seed), torch.arange(len(text)).unsqueeze(0)
        u = uniform(seed, sample, torch.arange(int(block[-1]) + 1).unsqueeze(0), zero, Purpose.SCORE_TIME)
        u = 1 - (sample + u) / parameters.num_times
        u_route = uniform(seed, sample, zero, position, Purpose.SCORE_ROUTE)
        if estimator_of(self.process, parameters.estimator) == "counts":
            assert isinstance(self.process, Absorbing)
            n = torch.bincount(block[is_open], minlength=u.shape[1])
            masked = (u * n).ceil().minimum(n).clamp(min=1)
            t, weight = time_of_count(self.process, masked / n.clamp(min=1))
            ranks = rank(block + u_route, is_open) - (n.cumsum(0) - n)[block]
            noisy = text.masked_fill(ranks <= masked[:, block], self.process.states.mask_token_id)
        else:
            power = 1 + time_power(self.process)
            t, weight = (u**power).clamp(min=MIN_T), power * u ** (power - 1)
            u_token = uniform(seed, sample, zero, position, Purpose.SCORE_TOKEN)
            noisy = forward(self.process, text, t[:, block], u_route, u_token)
        return torch.where(is_open, noisy, text), t[:, block], weight[:, block]
