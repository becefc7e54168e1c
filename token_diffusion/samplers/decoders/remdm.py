"""ReMDM (arXiv 2503.00307), for absorbing models: a token that shows may become a mask again, to be drawn anew among the others.

With m = 1 - alpha the probability of a mask: in a step from t to s each mask leaves, for a token drawn from theta, with the
probability 1 - (m_s - sigma alpha_t) / m_t, and each token that shows becomes a mask with the probability sigma. Whatever sigma
in [0, most], most = min(1, m_s / alpha_t), as many masks leave as come: a position is masked at s with probability m_s, as in
ancestral sampling, which is sigma = 0. A strategy is a choice of sigma, and eta its strength:

    cap               min(eta, most)
    rescale           eta most
    loop              min(eta, most) while t is in (t_off, t_on], where alpha stays at alpha_on; before, alpha rises to that as
                      the schedule's does from t = 1 to 0, and afterwards so from there to 1, both without remasking
    forward_backward  min(eta (alpha_s - alpha_t) / alpha_t, most): the noise that the step takes away, again (arXiv 2205.14987)
    dfm               that times (alpha_t m_t)^(1/4): the corrector of discrete flow matching (arXiv 2407.15595)
    conf              eta most, shared out among the tokens that show by softmax(-p), p the probability with which each was drawn

The law. Masks depend on no token but in conf: on any grid, at any step, each position is masked with the probability m_s,
independently of the others. Tokens that are drawn in one step are drawn independently, so with an exact network the samples
differ from the data's law: by O(1/n) of n steps for forward_backward and dfm, as for ancestral sampling, by O(n^-1/2) for cap
and rescale, and by what eta makes of it for loop, however many steps (all of them O(1/n) where eta falls as 1/n does). What
remasking is for is a network that is not exact, and steps that are few: a token that did not fit is drawn again given the others.
conf lets no masks leave for those that come: their expected number is M_s = M_t m_s / m_t + eta most P(any token shows),
more than m_s a position. It has no law of the model's.

Which masks leave is known before the network is asked, in conf from draws of earlier steps. So steps in which none does are
walked over without a forward pass, remasking on the way; the result is the plain loop's, token for token.

The authors' code ends its grid at 1e-5, and gives what is masked then its most probable token; here the last step ends at 0,
where `most` is 0 and every mask leaves. There it lets forward_backward exceed `most` in the last step, shortens steps for
dfm instead, and lets loop's alpha overshoot in the steps that t_on and t_off are inside. A network that is told the
time is told, in loop, the one at which the schedule has the alpha of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ...diffusion.processes import Process
from ...errors import ParameterError
from ..blocks import blocks_of
from ..draws import draw, put, split
from ..grid import grid_times, look_ahead
from ..options import option
from ..parameters import SamplingParameters
from ..randomness import Purpose, uniform
from ..sampler import AbsorbingDecoder, Logits, Outcome, Plan
from .tail import TailOptions, TailRows, tailed

ETA = {"cap": 0.008, "rescale": 0.015, "loop": 0.02, "forward_backward": 1.0, "dfm": 10.0, "conf": 1.0}
"""The strategies, each with its authors' strength."""

LOOP = {"t_on": 0.55, "t_off": 0.05, "alpha_on": 0.9}
"""What loop alone is asked, as its authors have it."""

STRATEGIES = list(ETA)
LEAST = 1e-300


@dataclass(frozen=True)
class RemaskingOptions(TailOptions):
    remask: Literal["cap", "rescale", "loop", "forward_backward", "dfm", "conf"] = option(
        "cap", "how likely a token becomes a mask again"
    )
    eta: float | None = option(
        None,
        "strength of remasking or correction, 0 for none; null is the authors' for each remask, or kappa_schedule",
        minimum=0,
        maximum=1000,
    )
    t_on: float | None = option(
        None, "time at which remasking or correction begins; null is 0.55 in a loop", above=0, maximum=1
    )
    t_off: float | None = option(
        None, "time at which remasking or correction ends; null is 0.05 in a loop", minimum=0, maximum=1
    )
    alpha_on: float | None = option(
        None, "of a loop: the alpha at which it stays from t_on to t_off; null is 0.9", above=0, maximum=1
    )


@dataclass
class RemaskingRows(TailRows):
    """strategy: int64 [R], of `STRATEGIES`. confidence: float64 [R, L], a shown token's probability when it was drawn.

    remasked_at: int64 [R, L], the step at which a position became a mask since the row's last outcome, 0 where it did not.
    """

    CHANGING: ClassVar[tuple[str, ...]] = (*TailRows.CHANGING, "confidence", "remasked_at")

    strategy: Tensor
    eta: Tensor
    t_on: Tensor
    t_off: Tensor
    alpha_on: Tensor
    confidence: Tensor
    remasked_at: Tensor


class Rates(NamedTuple):
    """Of steps, float64 [R, K]. stay: the probability that a mask stays one. sigma: that a token becomes one; for conf, what all
    tokens share of that.
    """

    stay: Tensor
    sigma: Tensor


def rates(process: Process, rows: RemaskingRows, t: Tensor, s: Tensor) -> Rates:
    """Of steps from t to s, float64 [R, K]."""
    now, then = masked(process, rows, t), masked(process, rows, s)
    strategy, eta, t_on, t_off = (
        each.unsqueeze(1).expand_as(t) for each in (rows.strategy, rows.eta, rows.t_on, rows.t_off)
    )
    alpha, rise = (1 - now).clamp(min=LEAST), now - then
    most = (then / alpha).clamp(max=1)
    looping = (t > t_off + 1e-9) & (t <= t_on + 1e-9)  # a grid's times are rounded
    by_strategy = {
        "cap": eta,
        "rescale": eta * most,
        "loop": torch.where(looping, eta, 0.0),
        "forward_backward": eta * (rise / alpha),
        "dfm": eta * (alpha * now) ** 0.25 * (rise / alpha),
        "conf": eta * most,
    }
    sigma = torch.stack([by_strategy[name] for name in STRATEGIES]).gather(0, strategy.unsqueeze(0)).squeeze(0)
    sigma = torch.minimum(sigma, most)
    given_back = torch.where(strategy == STRATEGIES.index("conf"), 0.0, sigma * (1 - now))
    return Rates(((then - given_back) / now).clamp(0, 1), sigma)


def masked(process: Process, rows: RemaskingRows, t: Tensor) -> Tensor:
    """The probability of a mask at t, float64 [R, K]."""
    mask = process.masses(t).mask
    loop = (rows.strategy == STRATEGIES.index("loop")).unsqueeze(1)
    if not bool(loop.any()):
        return mask
    t_on, t_off, alpha_on = (each.unsqueeze(1) for each in (rows.t_on, rows.t_off, rows.alpha_on))
    rising = 1 - alpha_on * process.masses(((t - t_on) / (1 - t_on)).clamp(min=0)).alpha
    falling = (1 - alpha_on) * process.masses((t / t_off.clamp(min=LEAST)).clamp(max=1)).mask
    return torch.where(loop, torch.where(t >= t_on, rising, falling), mask)


@dataclass(frozen=True)
class Walk:
    """How rows went through steps. column: int64 [R, A], the positions of the block that they are in, and so bool [R, A]
    masked, before the step at which they stopped, `reached` [R], and leaving, in it; remasked_at: int64 [R, A], in it or before.
    """

    column: Tensor
    masked: Tensor
    leaving: Tensor
    remasked_at: Tensor
    reached: Tensor


class Remasking(AbsorbingDecoder):
    """Of the absorbing process, on a grid, whole and in blocks; only the block that is filled in is remasked."""

    Options, Rows = RemaskingOptions, RemaskingRows

    def check(self, parameters: SamplingParameters) -> None:
        super().check(parameters)
        options = self.options(parameters)
        if parameters.num_inference_steps is None:
            raise ParameterError("num_inference_steps", "be an integer for the sampler remdm: it needs a grid", None)
        if options.remask not in ("forward_backward", "dfm") and (options.eta or 0) > 1:
            raise ParameterError("eta", f"be in [0, 1] for {options.remask}", options.eta)
        for name in LOOP:
            value = getattr(options, name)
            if value is not None and options.remask != "loop":
                raise ParameterError(name, f"be absent for {options.remask}, as it is of loop alone", value)
            if value == 1:
                raise ParameterError(name, "be below 1", value)
        t_on, t_off, _ = self._loop(options)
        if t_off >= t_on:
            raise ParameterError("t_off", f"be below t_on = {t_on:g}", t_off)

    def evaluations(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """One a step, in blocks that have anything to fill in."""
        return sum(1 for count in blocks_of(tokens, parameters).open if count) * (parameters.num_inference_steps or 0)

    def columns(self, tokens: Sequence[int], parameters: SamplingParameters) -> dict[str, Any]:
        options = self.options(parameters)
        t_on, t_off, alpha_on = self._loop(options)
        return {
            "greedy_tail": options.greedy_tail,
            "strategy": STRATEGIES.index(options.remask),
            "eta": float(ETA[options.remask] if options.eta is None else options.eta),
            "t_on": t_on,
            "t_off": t_off,
            "alpha_on": alpha_on,
            "confidence": torch.zeros(len(tokens), dtype=torch.float64),
            "remasked_at": torch.zeros(len(tokens), dtype=torch.int64),
        }

    def prepare(self, rows: RemaskingRows) -> None:
        rows.tokens.masked_fill_(rows.open, self.mask_token_id)

    def plan(self, rows: RemaskingRows) -> Plan:
        leaving = torch.zeros_like(rows.open)
        searching = (rows.step < rows.last_step).nonzero().squeeze(1)
        ahead = 1
        while searching.numel():
            some = rows if len(searching) == len(rows) else rows.select(searching)
            walk = self._walk(some, ahead)
            at = searching.unsqueeze(1), walk.column
            leaving[at], rows.step[searching] = walk.leaving, walk.reached
            rows.tokens[at] = torch.where(walk.masked, self.mask_token_id, rows.tokens[at])
            rows.remasked_at[at] = torch.maximum(rows.remasked_at[at], walk.remasked_at)
            searching = searching[~walk.leaving.any(1) & (walk.reached < some.last_step)]
            ahead *= 2  # what has seen none leave may be far from one
        rows.blocks_done.copy_(rows.step // rows.num_steps)
        rows.finished.copy_(rows.step >= rows.last_step)
        return Plan(leaving.flatten().nonzero().squeeze(1), self._told(rows))

    def commit(self, rows: RemaskingRows, plan: Plan, logits: Logits) -> Outcome:
        back, at = rows.remasked_at > 0, plan.positions
        rows.tokens.masked_fill_(back, self.mask_token_id)
        rows.logprob.masked_fill_(back, torch.nan)
        rows.step_map.copy_(torch.where(back, rows.remasked_at, rows.step_map))
        rows.remasked_at.zero_()
        rows.t.copy_(grid_times(rows.step, rows.num_steps)[1])
        rows.step.add_(1)
        drawn = draw(tailed(rows, rows.step % rows.num_steps == 0), plan, rows.step, logits, self.vocabulary)
        put(rows, at, rows.step, drawn.tokens, drawn.logprob)
        rows.confidence.view(-1)[at] = drawn.drawn
        rows.blocks_done.copy_(rows.step // rows.num_steps)
        rows.left.copy_(torch.minimum(rows.left - 1, rows.last_step - rows.step))
        rows.finished.copy_(rows.step >= rows.last_step)
        back.view(-1)[at] = True
        changed = back.flatten().nonzero().squeeze(1)
        return Outcome(*split(changed, rows.tokens.shape[1]), rows.tokens.view(-1)[changed])

    def _walk(self, rows: RemaskingRows, count: int) -> Walk:
        """The rows' next `count` steps, up to the first in which a mask leaves, in the block that they are in."""
        ahead = look_ahead(rows, count)
        start, step, column, is_active = ahead.start, ahead.step, ahead.column, ahead.is_active  # [R], [R, K], [R, A]
        stay, sigma = rates(self.process, rows, *grid_times(step, rows.num_steps.unsqueeze(1)))
        seed, sample = rows.seed.view(-1, 1, 1), rows.sample.view(-1, 1, 1)
        u = uniform(seed, sample, (step + 1).unsqueeze(2), column.unsqueeze(1), Purpose.ROUTE)
        doubt = (-rows.confidence.gather(1, column)).exp()
        shared = (rows.strategy == STRATEGIES.index("conf")).unsqueeze(1)
        masks = is_active & (rows.tokens.gather(1, column) == self.mask_token_id)
        leaving, remasked_at = torch.zeros_like(masks), torch.zeros_like(column)
        reached, seen = torch.minimum(step[:, -1] + 1, ahead.end), start
        is_ahead = is_active.unsqueeze(1) & (step < ahead.end.unsqueeze(1)).unsqueeze(2)
        while bool((seen <= step[:, -1]).any()):
            weight = torch.where(is_active & ~masks, doubt, 0.0)
            share = torch.where(shared, weight / weight.sum(1, keepdim=True).clamp(min=LEAST), 1.0)
            remasks = u < sigma.unsqueeze(2) * share.unsqueeze(1)
            moves = is_ahead & torch.where(masks.unsqueeze(1), u >= stay.unsqueeze(2), remasks)
            moves &= (step >= seen.unsqueeze(1)).unsqueeze(2)
            first = moves.any(2).long().argmax(1)
            moved = moves[torch.arange(len(rows)), first]
            leaves, remasked = moved & masks, moved & ~masks
            leaving |= leaves
            remasked_at = torch.where(remasked, (start + first + 1).unsqueeze(1), remasked_at)
            stops = leaves.any(1)
            reached = torch.where(stops, start + first, reached)
            masks = masks | (remasked & ~stops.unsqueeze(1))
            seen = torch.where(moved.any(1) & ~stops, start + first + 1, step[:, -1] + 1)
        return Walk(column, masks, leaving, remasked_at, reached)

    def _told(self, rows: RemaskingRows) -> Tensor:
        """The time that the network is told before the rows' next steps, [R]: in loop, where the schedule has so many masks."""
        t = grid_times(rows.step, rows.num_steps)[0].unsqueeze(1)
        mask, schedule = masked(self.process, rows, t), self.schedule
        matching = schedule.inverse(mask * schedule.noise(torch.ones_like(mask)))
        return torch.where((rows.strategy == STRATEGIES.index("loop")).unsqueeze(1), matching, t).squeeze(1)

    @staticmethod
    def _loop(options: Any) -> list[float]:
        """t_on, t_off, alpha_on."""
        given = {name: getattr(options, name) for name in LOOP}
        return [float(LOOP[name] if value is None else value) for name, value in given.items()]
