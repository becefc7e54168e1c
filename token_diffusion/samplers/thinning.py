"""Uniform and hybrid: a position is offered to the network only where its draw could make it leave.

Each position has one route draw u a step. It leaves when u < b / Z, which needs the network's theta_z; but b / Z is at most
the bound b / f_z(t) that needs none (processes.py). So positions with u above the bound stay whatever the network says, a
step in which all do is passed over without a forward pass, and the head runs at the others alone. As the accepted draws
are the very ones that a plain loop would accept, the result is that of the plain loop token for token, not only in law.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ParameterError
from ..processes import Masses, Process, leave_bound, leave_probability, prior
from ..randomness import Purpose, uniform
from ..rows import Rows
from .sampler import Plan, draw, shaped, split


class Thinning:
    """The sampler of the uniform and the hybrid process, ancestral and block-wise."""

    def __init__(self, process: Process) -> None:
        self.process, self.mask_token_id = process, process.states.mask_token_id

    def check(self, num_inference_steps: int | None) -> None:
        """A grid is needed: near t = 0 the events of a continuous clock have no last one."""
        if num_inference_steps is None:
            rule = f"be an integer for the {self.process.name} process (first-hitting exists for absorbing alone)"
            raise ParameterError("num_inference_steps", rule, None)

    def prepare(self, rows: Rows) -> None:
        zero = torch.zeros_like(rows.sample).unsqueeze(1)
        u = uniform(rows.seed.unsqueeze(1), rows.sample.unsqueeze(1), zero, rows.position, Purpose.PRIOR)
        rows.tokens.copy_(torch.where(rows.open, prior(self.process, u), rows.tokens))

    def visible(self, rows: Rows) -> Tensor:
        """Blocks to come are hidden where they hold noise that looks like text (uniform); masks (hybrid) say it themselves."""
        if self.process.name != "uniform":
            return rows.valid
        to_come = rows.open & (rows.block > rows.blocks_done.unsqueeze(1))
        return rows.valid & ~to_come

    def plan(self, rows: Rows) -> Plan:
        candidates, draws = torch.zeros_like(rows.open), torch.zeros_like(rows.due_t)
        searching = (rows.step < rows.last_step).nonzero().squeeze(1)
        while searching.numel():
            some = rows.select(searching)
            offered, u, next_step = self._offer(some)
            candidates[searching], draws[searching] = offered, u
            waiting = ~offered.any(1)
            step = torch.where(waiting, next_step, some.step)
            rows.step[searching] = step
            searching = searching[waiting & (step < some.last_step)]
        rows.blocks_done.copy_(rows.step // rows.num_steps)
        positions = candidates.flatten().nonzero().squeeze(1)
        return Plan(positions, self._masses(rows)[2], rows.step + 1, draws.flatten()[positions])

    def _offer(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """The rows' current step: positions that could leave, bool [R, L], their draws, and the step to look at if none."""
        now, then, _ = self._masses(rows)
        block = rows.step // rows.num_steps
        active = rows.open & (rows.block == block.unsqueeze(1))
        step = (rows.step + 1).unsqueeze(1)
        u = uniform(rows.seed.unsqueeze(1), rows.sample.unsqueeze(1), step, rows.position, Purpose.ROUTE)
        offered = active & (u < leave_bound(self.process, rows.tokens, now, then))
        # a block without an open position is passed over whole
        next_step = torch.where(active.any(1), rows.step + 1, (block + 1) * rows.num_steps)
        return offered, u, next_step

    def commit(self, rows: Rows, plan: Plan, logits: Tensor) -> Tensor:
        assert plan.u_route is not None
        row, column = split(plan.positions, rows.tokens.shape[1])
        now, then = (Masses(*(mass[row, 0] for mass in masses)) for masses in self._masses(rows)[:2])
        rows.step.add_(1)
        z = rows.tokens.view(-1)[plan.positions]
        theta = shaped(rows, row, logits, self.mask_token_id)
        theta_z = theta.gather(-1, z.unsqueeze(-1)).squeeze(-1).double()
        leave = leave_probability(self.process, z, theta_z, now, then)
        arrival = plan.u_route / leave.clamp(min=1e-300)  # given that z leaves, uniform in [0, 1): it picks where to
        u_noise = uniform(rows.seed[row], rows.sample[row], rows.step[row], column, Purpose.NOISE_TOKEN)
        noise = torch.where(arrival < then.alpha + then.mask, self.mask_token_id, self.process.states.draw(u_noise))
        arrived = torch.where(arrival < then.alpha, draw(rows, row, column, theta), noise)
        tokens = torch.where(plan.u_route < leave, arrived, z)
        rows.tokens.view(-1)[plan.positions] = tokens
        rows.blocks_done.copy_(rows.step // rows.num_steps)
        rows.t.copy_(1 - ((rows.step - 1) % rows.num_steps + 1) / rows.num_steps.double())
        return tokens

    def _masses(self, rows: Rows) -> tuple[Masses, Masses, Tensor]:
        """Masses [R, 1] at the row's time and at the next grid time, and the time itself [R]."""
        done, n = rows.step % rows.num_steps, rows.num_steps
        t, s = 1 - done / n.double(), 1 - (done + 1) / n.double()
        return self.process.masses(t.unsqueeze(1)), self.process.masses(s.unsqueeze(1)), t
