"""Uniform and hybrid: a position is offered to the network only where its draw could make it leave.

Each position has one route draw u a step. It leaves when u < b / Z, which needs the network's theta_z; but b / Z is at most
the bound b / f_z(t) that needs none (diffusion/processes.py). So positions with u above the bound stay whatever the network
says, a step in which all do is passed over without a forward pass, and the head runs at the others alone. As the accepted
draws are the very ones that a plain loop would accept, the result is that of the plain loop token for token, not only in law.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...diffusion.processes import leave_bound, prior, reverse
from ...errors import ParameterError
from ..blocks import blocks_of
from ..draws import Draws, draw, put, split
from ..grid import grid_times, look_ahead
from ..parameters import SamplingParameters
from ..randomness import Purpose, uniform
from ..sampler import Decoder, Logits, Outcome, Plan
from .tail import TailOptions, TailRows, check_tail, tailed


class Thinning(Decoder):
    """The sampler of the uniform and the hybrid process, ancestral and block-wise."""

    Options = TailOptions
    Rows: ClassVar[type[TailRows]] = TailRows

    def check(self, parameters: SamplingParameters) -> None:
        """A grid is needed: near t = 0 the events of a continuous clock have no last one."""
        super().check(parameters)
        check_tail(self.options(parameters), parameters)
        if parameters.num_inference_steps is None:
            rule = f"be an integer for the {self.process.name} process (first-hitting exists for absorbing alone)"
            raise ParameterError("num_inference_steps", rule, None)

    def evaluations(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """One a step, in blocks that have anything to fill in."""
        return sum(1 for count in blocks_of(tokens, parameters).open if count) * (parameters.num_inference_steps or 0)

    def columns(self, tokens: Sequence[int], parameters: SamplingParameters) -> dict[str, Any]:
        return {"greedy_tail": self.options(parameters).greedy_tail}

    def prepare(self, rows: TailRows) -> None:
        zero = torch.zeros_like(rows.sample).unsqueeze(1)
        u = uniform(rows.seed.unsqueeze(1), rows.sample.unsqueeze(1), zero, rows.position, Purpose.PRIOR)
        rows.tokens.copy_(torch.where(rows.open, prior(self.process, u), rows.tokens))

    def visible(self, rows: TailRows) -> Tensor:
        """Blocks to come are hidden where they hold noise that looks like text (uniform); masks (hybrid) say it themselves."""
        if self.process.name != "uniform":
            return rows.valid
        to_come = rows.open & (rows.block > rows.blocks_done.unsqueeze(1))
        return rows.valid & ~to_come

    def plan(self, rows: Any) -> Plan:
        candidates, draws = self.search(rows)
        rows.finished.copy_(rows.step >= rows.last_step)
        positions = candidates.flatten().nonzero().squeeze(1)
        return Plan(positions, self.times(rows, rows.step.unsqueeze(1))[0].squeeze(1), draws.flatten()[positions])

    def search(self, rows: Any) -> tuple[Tensor, Tensor]:
        """Moves every row to before the first step at which a position could leave, or to the end of its grid.

        Returns:
            Those positions, bool [R, L], and their draws.
        """
        candidates, draws = torch.zeros_like(rows.open), torch.zeros(rows.open.shape, dtype=torch.float64)
        end = rows.num_blocks * rows.num_steps
        searching = (rows.step < end).nonzero().squeeze(1)
        ahead = 1
        while searching.numel():
            some = rows if len(searching) == len(rows) else rows.select(searching)
            candidates[searching], draws[searching], rows.step[searching] = self.look(some, ahead)
            waiting = ~candidates[searching].any(1) & (rows.step < end)[searching]
            searching = searching[waiting]
            ahead *= 2  # what has seen no event yet may be far from one
        rows.blocks_done.copy_((rows.step // rows.num_steps).minimum(rows.num_blocks))
        return candidates, draws

    def look(self, rows: TailRows, ahead: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first of the rows' next `ahead` steps, in the block that they are in, at which a position could leave.

        Returns:
            Those positions bool [R, L], their draws, and the step [R]; if there are none, the step after the last one seen.
        """
        to_come, each = look_ahead(rows, ahead), torch.arange(len(rows))
        step, end, column = to_come.step, to_come.end, to_come.column  # [R, K], [R], [R, A]
        seed, sample = rows.seed.view(-1, 1, 1), rows.sample.view(-1, 1, 1)
        u = uniform(seed, sample, (step + 1).unsqueeze(2), column.unsqueeze(1), Purpose.ROUTE)
        offered = to_come.is_active.unsqueeze(1) & (step < end.unsqueeze(1)).unsqueeze(2)
        offered &= self.could_leave(rows, step, column, u)
        some = offered.any(2)
        first = some.long().argmax(1)
        reached = torch.where(some.any(1), to_come.start + first, torch.minimum(step[:, -1] + 1, end))
        found = torch.zeros_like(rows.open).scatter(1, column, offered[each, first])
        return found, torch.zeros(rows.open.shape, dtype=torch.float64).scatter(1, column, u[each, first]), reached

    def could_leave(self, rows: Any, step: Tensor, column: Tensor, u_route: Tensor) -> Tensor:
        """Whether the tokens at `column` [R, A] could leave in steps [R, K], whatever the network says; u_route: [R, K, A]."""
        now, then = (self.process.masses(time.unsqueeze(2)) for time in self.times(rows, step))
        return u_route < leave_bound(self.process, rows.tokens.gather(1, column).unsqueeze(1), now, then)

    def commit(self, rows: Any, plan: Plan, logits: Logits) -> Outcome:
        number = rows.step + 1
        drawn = draw(tailed(rows, number % rows.num_steps == 0), plan, number, logits, self.vocabulary)
        tokens = self.moved(rows, plan, number, drawn)
        logprob = torch.where(tokens == drawn.tokens, drawn.logprob, torch.nan)  # others came by noise
        outcome = put(rows, plan.positions, number, tokens, logprob)
        rows.t.copy_(self.times(rows, rows.step.unsqueeze(1))[1].squeeze(1))
        rows.step.add_(1)
        rows.blocks_done.copy_(rows.step // rows.num_steps)
        rows.left.copy_(torch.minimum(rows.left - 1, rows.last_step - rows.step))
        rows.finished.copy_(rows.step >= rows.last_step)
        return outcome

    def moved(self, rows: Any, plan: Plan, number: Tensor, drawn: Draws) -> Tensor:
        """Where the planned positions are after their rows' next step, of this `number` [R], by the routes taken."""
        assert plan.u_route is not None
        row, column = split(plan.positions, rows.tokens.shape[1])
        now, then = (self.process.masses(time[row, 0]) for time in self.times(rows, rows.step.unsqueeze(1)))
        z = rows.tokens.view(-1)[plan.positions]
        u_noise = uniform(rows.seed[row], rows.sample[row], number[row], column, Purpose.NOISE_TOKEN)
        return reverse(self.process, z, drawn.probability, drawn.tokens, now, then, plan.u_route, u_noise)

    def times(self, rows: Any, step: Tensor) -> tuple[Tensor, Tensor]:
        """The times float64 at the start and the end of grid steps [R, K], which are counted through all blocks."""
        return grid_times(step, rows.num_steps.unsqueeze(1))
