"""Absorbing: every position's unmasking step is drawn first, and the network runs only at steps where something is due.

When a position leaves the mask depends on the schedule alone, never on the network: it is still masked at t with
probability noise(t) / noise(1), so with u uniform its own time is noise^-1(u noise(1)). On a grid of n steps the position
is due at the first grid time below its own; without a grid (`num_inference_steps=None`) each is an event of its own, in
the order of their times, which is the first-hitting sampler (arXiv 2409.02908) and exact ancestral sampling as n -> infinity.
Both have the law of the step-by-step loop, with at most min(n, masks) network evaluations a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..blocks import blocks_of
from ..draws import draw, put, rank
from ..parameters import SamplingParameters
from ..randomness import Purpose, uniform
from ..rows import NEVER
from ..sampler import AbsorbingDecoder, Logits, Outcome, Plan
from .tail import TailOptions, TailRows, check_tail, tailed


@dataclass
class UnmaskingRows(TailRows):
    """due_step: int64 [R, L], the step at which an open position is unmasked, NEVER once it is. due_t: float64 [R, L], the time
    that the network sees then.
    """

    CHANGING: ClassVar[tuple[str, ...]] = (*TailRows.CHANGING, "due_step")

    due_step: Tensor
    due_t: Tensor


class Unmasking(AbsorbingDecoder):
    """The sampler of the absorbing process, ancestral and block-wise, on any grid and without one."""

    Options = TailOptions
    Rows: ClassVar[type[UnmaskingRows]] = UnmaskingRows
    settles = True

    def check(self, parameters: SamplingParameters) -> None:
        super().check(parameters)
        check_tail(self.options(parameters), parameters)

    def evaluations(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """One a mask, and no more than one a step."""
        found, steps = blocks_of(tokens, parameters).open, parameters.num_inference_steps
        return sum(found) if steps is None else sum(min(steps, count) for count in found)

    def columns(self, tokens: Sequence[int], parameters: SamplingParameters) -> dict[str, Any]:
        return {
            "greedy_tail": self.options(parameters).greedy_tail,
            "due_step": torch.full((len(tokens),), NEVER),
            "due_t": torch.zeros(len(tokens), dtype=torch.float64),
        }

    def prepare(self, rows: UnmaskingRows) -> None:
        rows.tokens.masked_fill_(rows.open, self.mask_token_id)
        zero = torch.zeros_like(rows.sample).unsqueeze(1)
        u = uniform(rows.seed.unsqueeze(1), rows.sample.unsqueeze(1), zero, rows.position, Purpose.TIME)
        own_t = self.schedule.inverse(u * self.schedule.noise(torch.ones_like(u)))
        n = rows.num_steps.unsqueeze(1)
        step = (n * (1 - own_t)).ceil().long().clamp(min=1).minimum(n)
        ranks = rank(rows.block + (1 - own_t) / 2, rows.open)
        on_grid = n > 0
        rows.due_step.copy_(torch.where(rows.open, torch.where(on_grid, rows.block * n + step, ranks), NEVER))
        rows.due_t.copy_(torch.where(on_grid, 1 - (step - 1) / n.clamp(min=1).double(), own_t))

    def plan(self, rows: Any) -> Plan:
        due_step = torch.where(rows.open, rows.due_step, NEVER)
        rows.step.copy_(due_step.amin(1))
        due = due_step == rows.step.unsqueeze(1)
        t = torch.where(due, rows.due_t, 0.0).amax(1)
        return Plan(due.flatten().nonzero().squeeze(1), t)

    def commit(self, rows: Any, plan: Plan, logits: Logits) -> Outcome:
        return self.unmask(rows, plan, rows.step, logits)

    def unmask(self, rows: UnmaskingRows, plan: Plan, number: Tensor, logits: Logits) -> Outcome:
        """Tokens at the planned positions, their draws named by `number` [R], and where that leaves the rows."""
        n = rows.num_steps
        drawn = draw(tailed(rows, rows.step % n.clamp(min=1) == 0), plan, number, logits, self.vocabulary)
        outcome = put(rows, plan.positions, rows.step, drawn.tokens, drawn.logprob)
        rows.due_step.view(-1)[plan.positions] = NEVER
        waiting = rows.open & (rows.due_step < NEVER)
        masks = waiting.sum(1)
        finished = masks == 0
        rows.finished.copy_(finished)
        after = torch.where(n > 0, 1 - ((rows.step - 1) % n.clamp(min=1) + 1) / n.clamp(min=1).double(), plan.t)
        rows.t.copy_(torch.where(finished, 0.0, after))
        rows.step.copy_(torch.where(finished, rows.last_step, rows.step))
        next_block = torch.where(waiting, rows.block, NEVER).amin(1)
        rows.blocks_done.copy_(torch.where(finished, rows.num_blocks, next_block))
        rows.left.copy_(torch.minimum(rows.left - 1, torch.minimum(masks, rows.last_step - rows.step)))
        return outcome
