"""Gibbs corrector: after each step of ancestral sampling, some positions are drawn anew given all others, at the same time.

A corrector step draws z_i of a chosen position from p(z_i | the others), the law of the noisy text at that time. What is that?

- Uniform, hybrid: alpha_s theta_i + the noise at s, theta_i being the *leave-one-out* posterior P(x_i | z without z_i), for given
  x_i the noise on it depends on nothing else. That posterior is the optimum of the NELBO by which our networks, UDLM's, Duo's
  and GIDD's are trained, and what their logits are taken for, here as in ancestral sampling. A network trained by the
  cross-entropy of the clean token (P(x_i | z), as diffusers' `DiscreteDDIMScheduler` has them) would first have to have
  log(1 + N alpha / (1 - alpha)) taken from the logit of the token that z_i shows; no format that is read here has such a one.
- Absorbing: given that z_i shows a token, theta_i with z_i masked. A token that shows is masked in what the network sees, and
  drawn anew; masks stay, so that the steps at which they leave are known beforehand as ever (unmasking.py).

What law has it? One position a corrector step, chosen at random among those that can be, is a Gibbs step: it leaves the law of
z_s exactly as it is, and moves what differs from it closer. Several a step (`num_corrected` > 1) are drawn independently, and
those chosen for how little the network makes of their token (`least_confident`) depend on what is to be drawn: neither leaves
the law as it is, both are approximations that correct more for an evaluation.

Where: on the grid of uniform and hybrid after every step but a block's last, which ends at s = 0, where there is no noise and the
network has learnt nothing; a step of the grid that asks for no evaluation is corrected all the same. In absorbing sampling after
every step in which a token is unmasked, the last one too, for whole text is what a mask model learns from; with the greedy tail,
what is drawn anew after the last step is the most probable token as well. The positions are those of the block that is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...diffusion.processes import forward
from ...errors import ParameterError
from ..draws import draw, put, rank, split
from ..options import option
from ..parameters import SamplingParameters
from ..randomness import Purpose, uniform
from ..rows import NEVER
from ..sampler import Logits, Outcome, Plan
from .tail import TailOptions, TailRows, tailed
from .thinning import Thinning
from .unmasking import Unmasking, UnmaskingRows


@dataclass(frozen=True)
class GibbsOptions(TailOptions):
    num_corrector_steps: int = option(
        1, "corrector steps after each step of the grid, an evaluation each", minimum=1, maximum=1000
    )
    num_corrected: int = option(1, "positions drawn anew in a corrector step", minimum=1)
    corrected: Literal["random", "least_confident"] = option(
        "random",
        "which positions: at random, or those whose token the network finds least probable (not for absorbing)",
    )


@dataclass
class GibbsRows(TailRows):
    """corrections: int64 [R], corrector steps still to come at the time reached. The others are the options, [R] each."""

    CHANGING: ClassVar[tuple[str, ...]] = (*TailRows.CHANGING, "corrections")

    corrections: Tensor
    num_corrector_steps: Tensor
    num_corrected: Tensor
    least_confident: Tensor


@dataclass
class UnmaskingGibbsRows(UnmaskingRows, GibbsRows):
    """told_t: float64 [R], the time that the network is told in corrector steps."""

    CHANGING: ClassVar[tuple[str, ...]] = (*UnmaskingRows.CHANGING, "corrections", "told_t")

    told_t: Tensor


def columns_of(options: GibbsOptions) -> dict[str, Any]:
    """The columns of `GibbsRows`."""
    return {
        "corrections": 0,
        "num_corrector_steps": options.num_corrector_steps,
        "num_corrected": options.num_corrected,
        "least_confident": options.corrected == "least_confident",
    }


def number_of(rows: Any) -> Tensor:
    """int64 [R]: what a row's draws are named by in its corrector step; no step of the grid has that number."""
    done = rows.num_corrector_steps - rows.corrections
    number: Tensor = rows.last_step + 1 + rows.step * rows.num_corrector_steps + done
    return number


def chosen(rows: Any, key: Tensor, among: Tensor) -> Tensor:
    """The num_corrected positions of each row with the least keys [R, L], bool [R, L]; all of `among` if they are fewer."""
    found: Tensor = among & (rank(key, among) <= rows.num_corrected.unsqueeze(1))
    return found


def draws_of(rows: Any, number: Tensor, purpose: Purpose) -> Tensor:
    """Uniforms [R, L], a position each."""
    return uniform(rows.seed.unsqueeze(1), rows.sample.unsqueeze(1), number.unsqueeze(1), rows.position, purpose)


class GibbsThinning(Thinning):
    """The sampler of the uniform and the hybrid process."""

    Options: ClassVar[type[GibbsOptions]] = GibbsOptions
    Rows: ClassVar[type[GibbsRows]] = GibbsRows

    def evaluations(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """One a step, and the corrector's after each but the last of each block."""
        steps, each = super().evaluations(tokens, parameters), self.options(parameters).num_corrector_steps
        return int(steps + each * (steps - steps // (parameters.num_inference_steps or 1)))

    def columns(self, tokens: Sequence[int], parameters: SamplingParameters) -> dict[str, Any]:
        return super().columns(tokens, parameters) | columns_of(self.options(parameters))

    def search(self, rows: GibbsRows) -> tuple[Tensor, Tensor]:
        """To before the next step at which a position could leave, or to the next corrector step."""
        candidates, draws = torch.zeros_like(rows.open), torch.zeros(rows.open.shape, dtype=torch.float64)
        end = rows.num_blocks * rows.num_steps
        searching = ((rows.corrections == 0) & (rows.step < end)).nonzero().squeeze(1)
        while searching.numel():
            candidates[searching], draws[searching], rows.step[searching] = self.look(rows.select(searching), 1)
            searching = searching[~candidates[searching].any(1)]
            self._begin(rows, searching)
            searching = searching[(rows.corrections == 0)[searching] & (rows.step < end)[searching]]
        block, correcting = (rows.step // rows.num_steps).minimum(rows.num_blocks), (rows.corrections > 0).unsqueeze(1)
        rows.blocks_done.copy_(block)
        number = number_of(rows)
        among = rows.open & (rows.block == block.unsqueeze(1)) & correcting
        some = chosen(rows, draws_of(rows, number, Purpose.CORRECT), among)
        candidates |= torch.where(rows.least_confident.unsqueeze(1), among, some)
        return candidates, torch.where(correcting, draws_of(rows, number, Purpose.ROUTE), draws)

    def commit(self, rows: GibbsRows, plan: Plan, logits: Logits) -> Outcome:
        assert plan.u_route is not None
        row, column = split(plan.positions, rows.tokens.shape[1])
        correcting, z = rows.corrections > 0, rows.tokens.view(-1)[plan.positions]
        number, step = torch.where(correcting, number_of(rows), rows.step + 1), rows.step + (~correcting).long()
        drawn = draw(tailed(rows, ~correcting & (step % rows.num_steps == 0)), plan, number, logits, self.vocabulary)
        u_noise = uniform(rows.seed[row], rows.sample[row], number[row], column, Purpose.NOISE_TOKEN)
        again = forward(self.process, drawn.tokens, plan.t[row], plan.u_route, u_noise)
        again = torch.where(self._taken(rows, plan, number, z, drawn.probability), again, z)
        tokens = torch.where(correcting[row], again, self.moved(rows, plan, number, drawn))
        logprob = torch.where(tokens == drawn.tokens, drawn.logprob, torch.nan)
        outcome = put(rows, plan.positions, step, tokens, logprob)
        rows.t.copy_(torch.where(correcting, plan.t, self.times(rows, rows.step.unsqueeze(1))[1].squeeze(1)))
        rows.corrections.sub_(correcting.long())
        rows.step.copy_(step)
        self._begin(rows, (~correcting).nonzero().squeeze(1))
        rows.blocks_done.copy_(rows.step // rows.num_steps)
        to_come = (rows.last_step - rows.step) * (1 + rows.num_corrector_steps) + rows.corrections
        rows.left.copy_(torch.minimum(rows.left - 1, to_come))
        rows.finished.copy_(rows.step >= rows.last_step)
        return outcome

    def _begin(self, rows: GibbsRows, which: Tensor) -> None:
        """Rows `which` have done a step: their corrector steps are to come, but at the end of a block."""
        inside = (rows.step % rows.num_steps != 0)[which]
        rows.corrections[which] = torch.where(inside, rows.num_corrector_steps[which], 0)

    def _taken(self, rows: GibbsRows, plan: Plan, number: Tensor, z: Tensor, theta_z: Tensor) -> Tensor:
        """Which of the planned positions are drawn anew, bool [n].

        The least confident are drawn without replacement with weights 1 / p(z_i | the others), by Gumbel's trick.
        """
        if not bool(rows.least_confident.any()):
            return torch.ones_like(z, dtype=torch.bool)
        row, _ = split(plan.positions, rows.tokens.shape[1])
        now = self.process.masses(plan.t[row])
        probability = now.alpha * theta_z + self.process.states.landing(z, now)
        key, asked = torch.zeros(rows.open.shape, dtype=torch.float64), torch.zeros_like(rows.open)
        key.view(-1)[plan.positions], asked.view(-1)[plan.positions] = probability, True
        u = draws_of(rows, number, Purpose.CORRECT)
        least = chosen(rows, key.clamp(min=1e-300).log() + torch.log(-torch.log(u.clamp(min=1e-300))), asked)
        return (least | ~rows.least_confident.unsqueeze(1)).view(-1)[plan.positions]


class GibbsUnmasking(Unmasking):
    """The sampler of the absorbing process."""

    Options: ClassVar[type[GibbsOptions]] = GibbsOptions
    Rows: ClassVar[type[UnmaskingGibbsRows]] = UnmaskingGibbsRows
    settles = False

    def check(self, parameters: SamplingParameters) -> None:
        super().check(parameters)
        if self.options(parameters).corrected != "random":
            rule = "be random for the absorbing process, whose network tells nothing of a token that shows"
            raise ParameterError("corrected", rule, self.options(parameters).corrected)

    def evaluations(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """Those of unmasking, and the corrector's after each."""
        return super().evaluations(tokens, parameters) * (1 + int(self.options(parameters).num_corrector_steps))

    def columns(self, tokens: Sequence[int], parameters: SamplingParameters) -> dict[str, Any]:
        return super().columns(tokens, parameters) | columns_of(self.options(parameters)) | {"told_t": 1.0}

    def plan(self, rows: UnmaskingGibbsRows) -> Plan:
        correcting, before = rows.corrections > 0, rows.step.clone()
        plan = super().plan(rows)
        rows.step.copy_(torch.where(correcting, before, rows.step))
        due = torch.zeros_like(rows.open)
        due.view(-1)[plan.positions] = True
        among = rows.open & (rows.due_step == NEVER) & (rows.block == rows.blocks_done.unsqueeze(1))
        some = chosen(rows, draws_of(rows, number_of(rows), Purpose.CORRECT), among)
        asked = torch.where(correcting.unsqueeze(1), some, due)
        tokens = rows.tokens.masked_fill(some & correcting.unsqueeze(1), self.mask_token_id)
        t = torch.where(correcting, rows.told_t, plan.t)
        return Plan(asked.flatten().nonzero().squeeze(1), t, tokens=tokens)

    def commit(self, rows: UnmaskingGibbsRows, plan: Plan, logits: Logits) -> Outcome:
        correcting, step, block, left = (
            rows.corrections > 0,
            rows.step.clone(),
            rows.blocks_done.clone(),
            rows.left.clone(),
        )
        number = torch.where(correcting, number_of(rows), step)
        outcome = self.unmask(rows, plan, number, logits)
        rows.told_t.copy_(torch.where(correcting, rows.told_t, torch.where(rows.t > 0, rows.t, plan.t)))
        rows.corrections.copy_(torch.where(correcting, rows.corrections - 1, rows.num_corrector_steps))
        held = rows.corrections > 0
        rows.finished.copy_(rows.finished & ~held)
        rows.step.copy_(torch.where(held, step, rows.step))
        rows.blocks_done.copy_(torch.where(held, block, rows.blocks_done))
        masks = (rows.open & (rows.due_step < NEVER)).sum(1)
        rows.left.copy_(torch.minimum(left - 1, masks * (1 + rows.num_corrector_steps) + rows.corrections))
        return outcome
