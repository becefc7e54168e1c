"""Scoring: a text's bound, -ln p(text) at most, from what the network says of it at several times, in nats a token.

Each row holds the text whole and shows the network one noised version of it, the row's number k = 0 .. K - 1 being its share of
time: u is drawn from ((K - k - 1) / K, (K - k) / K], so that together the rows cover (0, 1]. A row is asked once, where the
bound reads the logits, and has then finished; one whose noise has hit nothing is not asked at all.

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

from ..diffusion.processes import Absorbing, Process, forward
from ..diffusion.scheduler import MIN_T
from ..diffusion.times import time_of_count, time_power
from ..errors import ParameterError
from .parameters import Estimator, ScoringParameters
from .randomness import Purpose, uniform
from .rows import Rows
from .sampler import Logits, Outcome, Plan, rank, slices, split


@dataclass
class ScoreRows(Rows):
    """Rows of texts, `open` where they are scored.

    num_times: int64 [R], rows of the text. counted: bool [R], the noise is drawn by its count.
    weight: float64 [R], one over the density of the row's time. values: float64 [R, L], nats of each token, summed over the rows
    of a text num_times times the bound; 0 where it is not open.
    """

    CHANGING: ClassVar[tuple[str, ...]] = ("nfe", "left", "failed", "finished", "weight", "values")

    num_times: Tensor
    counted: Tensor
    weight: Tensor
    values: Tensor


def estimator_of(process: Process, asked: Estimator | None) -> Estimator:
    """The one that was asked for, or else the one with the smaller error. Raises `ParameterError` if there is none such."""
    if asked == "counts" and not isinstance(process, Absorbing):
        raise ParameterError("estimator", f"be times for the {process.name} process", asked)
    return asked or ("counts" if isinstance(process, Absorbing) else "times")


class Scoring:
    """The rows of texts whose bound is asked for, of any process."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def check(self, parameters: ScoringParameters) -> None:
        """Counts are counted where noise is a mask."""
        estimator_of(self.process, parameters.estimator)

    def evaluations(self, tokens: Sequence[int], parameters: ScoringParameters) -> int:
        """One."""
        return 1

    def rows(self, tokens: Sequence[int], parameters: ScoringParameters) -> ScoreRows:
        count, text = parameters.num_times, torch.tensor(tokens, dtype=torch.int64)
        if bool((text < 0).any()):
            raise ParameterError("tokens", "be a text without holes", int(text.min()))
        is_open = torch.ones_like(text, dtype=torch.bool)
        is_open[list(parameters.given)] = False

        def each(value: float, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.full((count,), value, dtype=dtype)

        return ScoreRows(
            tokens=text.repeat(count, 1),
            valid=torch.ones(count, len(text), dtype=torch.bool),
            open=is_open.repeat(count, 1),
            seed=each(parameters.seed),
            sample=torch.arange(count),
            nfe=each(0),
            left=each(1),
            failed=each(False, torch.bool),
            finished=each(False, torch.bool),
            num_times=each(count),
            counted=each(estimator_of(self.process, parameters.estimator) == "counts", torch.bool),
            weight=each(1, torch.float64),
            values=torch.zeros(count, len(text), dtype=torch.float64),
        )

    def visible(self, rows: ScoreRows) -> Tensor:
        return rows.valid

    def plan(self, rows: ScoreRows) -> Plan:
        noisy, t = self._noised(rows)
        asked = rows.open & self.process.reads(noisy)
        rows.values.masked_fill_(rows.open, self.process.prior_divergence)
        rows.finished.copy_(~asked.any(1))
        rows.left.masked_fill_(rows.finished, 0)
        return Plan(asked.flatten().nonzero().squeeze(1), t, tokens=noisy)

    def commit(self, rows: ScoreRows, plan: Plan, logits: Logits) -> Outcome:
        assert plan.tokens is not None
        row, _ = split(plan.positions, rows.tokens.shape[1])
        x, z = (each.view(-1)[plan.positions] for each in (rows.tokens, plan.tokens))
        t = plan.t[row]
        weights = self.process.weights(x, z, t)["elbo"] * rows.weight[row]
        on_device = [each.unsqueeze(0).to(logits.device) for each in (x, z, t)]
        parts = [
            self.process.divergence(logits[some].unsqueeze(0), *(each[:, some] for each in on_device))[0]
            for some in slices(logits)
        ]
        divergence = torch.cat(parts).double().cpu()
        values = weights * divergence
        rows.failed[row[values.isnan()]] = True
        rows.values.view(-1)[plan.positions] += values
        rows.left.zero_()
        rows.finished.fill_(True)
        return Outcome.none()

    def _noised(self, rows: ScoreRows) -> tuple[Tensor, Tensor]:
        """The noised texts int64 [R, L] and their times [R]; sets the weights of these."""
        zero = torch.zeros_like(rows.sample)
        u = uniform(rows.seed, rows.sample, zero, zero, Purpose.SCORE_TIME)
        u = 1 - (rows.sample + u) / rows.num_times
        power = 1 + time_power(self.process)
        t, weight = (u**power).clamp(min=MIN_T), power * u ** (power - 1)
        seed, sample, step = (each.unsqueeze(1) for each in (rows.seed, rows.sample, zero))
        u_route = uniform(seed, sample, step, rows.position, Purpose.SCORE_ROUTE)
        u_token = uniform(seed, sample, step, rows.position, Purpose.SCORE_TOKEN)
        noisy = forward(self.process, rows.tokens, t.unsqueeze(1), u_route, u_token)
        if isinstance(self.process, Absorbing) and bool(rows.counted.any()):
            n = rows.open.sum(1)
            masked = (u * n).ceil().clamp(min=1).minimum(n)
            of_count, factor = time_of_count(self.process, masked / n)
            t, weight = torch.where(rows.counted, of_count, t), torch.where(rows.counted, factor, weight)
            chosen = rank(u_route, rows.open) <= masked.unsqueeze(1)
            by_count = rows.tokens.masked_fill(chosen, self.process.states.mask_token_id)
            noisy = torch.where(rows.counted.unsqueeze(1), by_count, noisy)
        rows.weight.copy_(weight)
        return torch.where(rows.open, noisy, rows.tokens), t
