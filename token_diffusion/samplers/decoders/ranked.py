"""Absorbing: masks are ranked by how sure the network is of them, and the surest are set: LLaDA's and Dream's decoding.

The ranking is the sampler's name: `confidence` (the largest probability: LLaDA's low-confidence remasking, Dream's maskgit_plus),
`margin` (how far it is before the next one: topk_margin), `entropy`, or `random`. How many a step sets is another matter:

- a `quota` on the grid of `num_inference_steps` a block, "even" (LLaDA) or by the noise schedule (Dream); steps that would set
  none are passed over without an evaluation, and without a grid each sets one;
- a `threshold` (Fast-dLLM, arXiv 2505.22618): all that reach it, at least one;
- a `factor` (Fast-dLLM): the r-th as long as it reaches 1 - factor / (r + 1), the first always. (Their loop takes the last mask
  along with all others, whatever its confidence; their paper does not.)
- an `entropy_bound` (EB-Sampler, arXiv 2505.24857): the first so many whose entropies, but for the largest, sum to no more.

With `alg_temp` (Dream) the positions of a quota are drawn without replacement, by weights exp(score / alg_temp). Equal scores go
by position, the lowest first; the loops of LLaDA, Dream and Fast-dLLM leave that to torch.topk, which promises nothing.

None of this has the model's law: which mask is set depends on what would be set there, and the tokens of a step are drawn apart.
`random` with one mask a step is the exception: masks leave in an order that is uniform, as in first-hitting, and so the law is.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ...diffusion.certainty import certainty_of, certainty_of_logits
from ...diffusion.devices import sent
from ...diffusion.shaping import inverse_cdf
from ...diffusion.times import time_of_count
from ...errors import ParameterError
from ..blocks import blocks_of
from ..draws import Some, allow, allowed, draw, pieces, put, shaped, split
from ..options import Options, option
from ..parameters import SamplingParameters
from ..randomness import Purpose, uniform
from ..rows import NEVER, SampleRows
from ..sampler import AbsorbingDecoder, Given, Logits, Outcome, Plan
from .rules import chosen, due_steps, perturbed

CONFIDENCE, MARGIN, ENTROPY, RANDOM = range(4)
RANKINGS = ("confidence", "margin", "entropy", "random")
LARGEST, DRAWN, SHAPED = range(3)
RULES = ("threshold", "factor", "entropy_bound")

CACHED = 1 << 18
"""Logits that a CPU ranks together: they and a copy or two stay in the cache of one core."""


@dataclass(frozen=True)
class RankedOptions(Options):
    quota: Literal["even", "schedule"] = option(
        "even", "how many a step sets where no rule says it: evenly, or as the noise schedule has it"
    )
    threshold: float | None = option(None, "set all that are at least so sure, and the surest", above=0, maximum=1)
    factor: float | None = option(None, "set the r-th surest as long as it reaches 1 - factor / (r + 1)", above=0)
    entropy_bound: float | None = option(
        None, "set the surest, as long as their entropies in nats sum to this, the largest apart", minimum=0
    )
    alg_temp: float = option(0.0, "draw a quota's positions by exp(score / alg_temp); 0 takes the surest", minimum=0)
    ranked_by: Literal["largest", "drawn", "shaped"] = option(
        "largest", "the network's largest probability, that of the token drawn, or the shaped distribution's"
    )
    grid_eps: float = option(0.0, "time at which a quota's grid ends and sets all that are left", minimum=0, maximum=1)

    @property
    def rules(self) -> list[str]:
        """Those given, which go before the quota."""
        return [name for name in RULES if getattr(self, name) is not None]


@dataclass
class RankedRows(SampleRows):
    """due: int64 [R, L], by a quota the step at which a row's first, second, … token is set; 0 where there is none.

    ranking: int64 [R], in `RANKINGS`. ranked_by: int64 [R]. threshold, factor, entropy_bound: float64 [R], NaN where not given.
    """

    due: Tensor
    ranking: Tensor
    ranked_by: Tensor
    threshold: Tensor
    factor: Tensor
    entropy_bound: Tensor
    alg_temp: Tensor

    @property
    def blind(self) -> Tensor:
        """Rows whose positions are chosen before the network is asked, bool [R]."""
        return (self.ranking == RANDOM) & self.entropy_bound.isnan()

    @property
    def in_block(self) -> Tensor:
        """Open positions of the block that is being filled, bool [R, L]."""
        return self.open & (self.block == self.blocks_done.unsqueeze(1))

    def choose(self, asked: Tensor, score: Tensor, entropy: Tensor) -> Tensor:
        """Which of the positions `asked` bool [R, L] are set at the step that follows, by their score and entropy [R, L]."""
        is_random, quota = self.ranking == RANDOM, (self.due == (self.step + 1).unsqueeze(1)).sum(1)
        row, column = (asked & (is_random | (self.alg_temp > 0)).unsqueeze(1)).nonzero(as_tuple=True)
        if row.numel():
            u = uniform(self.seed[row], self.sample[row], self.step[row] + 1, column, Purpose.POSITION)
            drawn = torch.where(is_random[row], u, perturbed(score[row, column], self.alg_temp[row], u))
            score = score.index_put((row, column), drawn)
        return chosen(score, asked, quota, self.threshold, self.factor, self.entropy_bound, entropy)


@dataclass(frozen=True)
class Ranks:
    """What one reading of the logits told of n positions, on the CPU.

    token: int64, the one drawn if its row is ranked by that, else the most probable one. score: float64, the highest goes first.
    entropy: float64, NaN where no row asks. lost: bool, there is no distribution.
    """

    token: Tensor
    score: Tensor
    entropy: Tensor
    lost: Tensor


class Ranked(AbsorbingDecoder):
    """The decoder of the absorbing process that sets first what ranks first."""

    Options = RankedOptions
    Rows = RankedRows
    settles = True

    def check(self, parameters: SamplingParameters) -> None:
        super().check(parameters)
        options: RankedOptions = self.options(parameters)
        rules, is_random = options.rules, parameters.sampler == "random"
        if len(rules) > 1:
            raise ParameterError(rules[1], f"be absent beside {rules[0]}", getattr(options, rules[1]))
        if parameters.sampler == "entropy" and rules and rules[0] != "entropy_bound":
            rule = "be absent for the sampler entropy, which no probability ranks (entropy_bound is its own)"
            raise ParameterError(rules[0], rule, getattr(options, rules[0]))
        if options.alg_temp and (rules or is_random):
            why = "for the sampler random, whose positions are drawn" if is_random else f"beside {rules[0]}"
            raise ParameterError("alg_temp", f"be 0 {why}", options.alg_temp)

    def evaluations(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """One a mask at most; by a quota as many as there are steps that set any."""
        options = self.options(parameters)
        if options.rules:
            return sum(blocks_of(tokens, parameters).open)
        return len(set(self._due(tokens, parameters, options)))

    def grid(self, parameters: SamplingParameters) -> int | None:
        """A quota's."""
        return None if self.options(parameters).rules else parameters.num_inference_steps

    def columns(self, tokens: Sequence[int], parameters: SamplingParameters) -> dict[str, Any]:
        options: RankedOptions = self.options(parameters)
        due = torch.zeros(len(tokens), dtype=torch.int64)
        steps = [] if options.rules else self._due(tokens, parameters, options)
        due[: len(steps)] = torch.tensor(steps, dtype=torch.int64)
        given = {name: getattr(options, name) for name in RULES}
        return {
            "due": due,
            "num_steps": self.grid(parameters) or 0,
            "ranking": RANKINGS.index(parameters.sampler),
            "ranked_by": _ranked_by(parameters, options),
            "alg_temp": float(options.alg_temp),
        } | {name: float("nan") if value is None else float(value) for name, value in given.items()}

    def prepare(self, rows: RankedRows) -> None:
        rows.tokens.masked_fill_(rows.open, self.mask_token_id)

    def plan(self, rows: RankedRows) -> Plan:
        waiting = self._waiting(rows)
        before = (rows.open & ~waiting).sum(1, keepdim=True)
        due = rows.due.gather(1, before.clamp(max=rows.due.shape[1] - 1)).squeeze(1)
        rows.step.copy_(torch.where(due > 0, due - 1, rows.step))
        rows.blocks_done.copy_(torch.where(waiting, rows.block, NEVER).amin(1).minimum(rows.num_blocks))
        here = waiting & rows.in_block
        t = self._time(rows, here)
        if bool((blind := rows.blind).any()):
            nothing = torch.zeros(here[blind].shape, dtype=torch.float64)
            here[blind] = rows.select(blind).choose(here[blind], nothing, nothing)
        return Plan(here.flatten().nonzero().squeeze(1), t)

    def commit(self, rows: RankedRows, plan: Plan, logits: Logits) -> Outcome:
        asked = torch.zeros(rows.open.shape, dtype=torch.bool)
        asked.view(-1)[plan.positions] = True
        ranks, row = self._ranks(rows, plan, logits), split(plan.positions, asked.shape[1])[0]
        rows.failed[row[ranks.lost]] = True
        score, entropy = (torch.zeros(asked.shape, dtype=torch.float64) for _ in range(2))
        score[asked], entropy[asked] = ranks.score.nan_to_num(), ranks.entropy.nan_to_num()
        here = torch.where(rows.blind.unsqueeze(1), asked, rows.choose(asked, score, entropy))
        rows.step.add_(1)
        index = (here[asked] & ~rows.failed[row]).nonzero().squeeze(1)
        token, logprob = ranks.token, torch.full(row.shape, torch.nan, dtype=torch.float32)
        is_known = (rows.temperature == 0) | (rows.ranked_by != LARGEST)
        more = index[(~is_known | rows.logprobs)[row[index]]]
        if more.numel():
            drawn = draw(rows, Plan(plan.positions[more], plan.t), rows.step, Some(logits, more), self.vocabulary)
            token[more], logprob[more] = drawn.tokens, drawn.logprob
        outcome = put(rows, plan.positions[index], rows.step, token[index], logprob[index])
        self._advance(rows)
        return outcome

    def _advance(self, rows: RankedRows) -> None:
        """How far the rows are after an evaluation, in place."""
        waiting = self._waiting(rows)
        masks = waiting.sum(1)
        finished = masks == 0
        rows.finished.copy_(finished)
        rows.left.copy_(torch.minimum(rows.left - 1, masks))
        rows.t.copy_(torch.where(finished, 0.0, self._time(rows, waiting & rows.in_block)))
        rows.step.copy_(torch.where(finished, rows.last_step, rows.step))
        next_block = torch.where(waiting, rows.block, NEVER).amin(1)
        rows.blocks_done.copy_(torch.where(finished, rows.num_blocks, next_block))

    def _waiting(self, rows: RankedRows) -> Tensor:
        """Masks that are to be set, bool [R, L]."""
        return rows.open & (rows.tokens == self.mask_token_id)

    def _time(self, rows: RankedRows, masks: Tensor) -> Tensor:
        """That at which so many of the block's positions, bool [R, L], may be expected to be masks: what a network has learnt.

        No grid's: a quota of more steps than masks sets them all in its first ones, at its grid's earliest times.
        """
        return time_of_count(self.absorbing, masks.sum(1).double() / rows.in_block.sum(1).clamp(min=1))[0]

    def _due(self, tokens: Sequence[int], parameters: SamplingParameters, options: RankedOptions) -> list[int]:
        """The step, counted through all blocks, at which the first, second, … token is set."""
        n, due, schedule = parameters.num_inference_steps, list[int](), cast(Hashable, self.schedule)
        for number, count in enumerate(blocks_of(tokens, parameters).open):
            before = len(due) if n is None else number * n
            steps = due_steps(count, n, options.quota, options.grid_eps, schedule)
            due += [before + step for step in steps]
        return due

    def _ranks(self, rows: RankedRows, plan: Plan, logits: Logits) -> Ranks:
        """Logits [n, V] are read once, for all rankings and rules together."""
        row, column = split(plan.positions, rows.tokens.shape[1])
        wanted = {
            "margin": bool((rows.ranking == MARGIN).any()),
            "entropy": bool(((rows.ranking == ENTROPY) | ~rows.entropy_bound.isnan()).any()),
        }
        u, is_deep, parts = None, rows.ranked_by[row] != LARGEST, []
        if bool(is_deep.any()):
            u = uniform(rows.seed[row], rows.sample[row], rows.step[row] + 1, column, Purpose.TOKEN)
        is_spare = isinstance(logits, Given) and not bool(rows.logprobs.any())
        for some in pieces(logits, CACHED):
            piece = logits[some]
            if is_spare:  # a draw after this one would do the same
                allow(rows, row[some], piece, self.vocabulary)
            else:
                piece = allowed(rows, row[some], piece, self.vocabulary)
            found = certainty_of_logits(piece, self.mask_token_id, **wanted, unmask=is_spare)
            told = torch.stack([each.double() for each in (found.token, found.largest, found.second, found.entropy)])
            if u is not None and (deep := is_deep[some].nonzero().squeeze(1)).numel():
                at = sent(deep, piece.device)
                told[:, at] = self._drawn(rows, row[some][deep], piece[at], u[some][deep], told[:, at], wanted)
            parts.append(told)
        token, largest, second, entropy = torch.cat(parts, 1).cpu()
        ranking = rows.ranking[row]
        score = torch.where(ranking == MARGIN, largest - second, torch.where(ranking == ENTROPY, -entropy, largest))
        return Ranks(token.long(), score, entropy, largest.isnan())

    def _drawn(
        self, rows: RankedRows, row: Tensor, logits: Tensor, u: Tensor, told: Tensor, wanted: dict[str, bool]
    ) -> Tensor:
        """What is `told` [4, n] of logits [n, V] in rows that are ranked by the token drawn, or by what it is drawn from."""
        # of a greedy row all but the temperature shapes: with it, all would be 0 and 1
        warm = replace(rows, temperature=rows.temperature.masked_fill(rows.temperature == 0, 1.0))
        theta = shaped(warm, row, logits, self.mask_token_id)
        best, largest, second, entropy = told
        greedy = sent(rows.temperature[row] == 0, logits.device)
        token = torch.where(greedy, best.long(), inverse_cdf(theta, sent(u, logits.device))).clamp(min=0).unsqueeze(1)
        below = logits.gather(1, token).double() - logits.gather(1, best.long().unsqueeze(1)).double()
        largest = largest * below.squeeze(1).exp()
        if bool((rows.ranked_by[row] == SHAPED).any()):
            of, by_margin = certainty_of(theta, **wanted), sent(rows.ranking[row] == MARGIN, logits.device)
            its = torch.where(by_margin, of.largest, theta.gather(1, token).squeeze(1)), of.second, of.entropy
            here = sent(rows.ranked_by[row] == SHAPED, logits.device)
            both = zip(its, (largest, second, entropy), strict=True)
            largest, second, entropy = (torch.where(here, shape.double(), other) for shape, other in both)
        return torch.stack([token.squeeze(1).double(), largest, second, entropy])


def _ranked_by(parameters: SamplingParameters, options: RankedOptions) -> int:
    """What has to be looked at for what was asked: where nothing shapes, or no token is drawn, it is the same and costs less."""
    is_plain = (
        parameters.temperature in (0, 1) and parameters.top_p == 1 and not (parameters.top_k or parameters.min_p)
    )
    is_seen = parameters.sampler != "random" or options.entropy_bound is not None
    if options.ranked_by == "shaped" and is_seen and not is_plain:
        return SHAPED
    draws = parameters.sampler == "confidence" and parameters.temperature > 0
    return DRAWN if draws and options.ranked_by != "largest" else LARGEST
