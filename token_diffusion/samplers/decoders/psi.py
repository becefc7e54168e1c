"""Psi samplers (Duo II, arXiv 2602.21185): each step is ancestral with probability kappa, else it draws anew from further away.

A step from t to s takes each position, by a draw of its own, along one of two ways:

    kappa        the predictor: the ancestral step, z_s from the posterior q(z_s | z_t, theta);
    1 - kappa    the corrector: a clean token from the posterior q(z_0 | z_t, theta), then noised anew, z_s from q(z_s | z_0).

Both give a position the same law at s, so kappa is free: the corrector forgets what noise a position had and, where it draws
another clean token, what it said. kappa = 1 is ancestral sampling, token for token. (Of an absorbing model this would be ReMDM's
family: sigma = (1 - kappa) (1 - alpha_s) is the probability that a token becomes a mask again.) How kappa goes:

    kappa given    that constant
    cap            1 - sigma / (1 - alpha_s) in [0, 1], sigma = min(eta, (1 - alpha_s) / alpha_t)
    rescale        the same with sigma = eta min(eta, (1 - alpha_s) / alpha_t); ReMDM's has 1 in the place of the inner eta
    loop           the same with sigma = eta, and t stays where alpha is alpha_on while the grid's time is in (t_off, t_on];
                   before, t goes there from 1, and after it to 0, both evenly

and outside of (t_off, t_on] kappa is 1; that is the whole grid by default, and (0.05, 0.55] in the loop.

What law has it? From the exact law of z_t, each position of z_s alone has its exact law, whatever kappa. But positions
that move in one step move independently, and later ones, also those of a single position, follow from what that makes of the
text: it has the model's law only where few move at once, as steps grow and 1 - kappa falls with them, as eta over the number of
steps. With eta or kappa held it is an approximation that corrects.

The authors' grid ends at 1e-5, and one evaluation more removes the noise; here the last step has s = 0. Their loop has steps at
either end of its constant part in which nothing can happen; here it has none.

A position is offered to the network where it takes the corrector's way or its draw could make it leave (thinning.py): that needs
no logits, so the result is that of a plain loop token for token, and steps that ask for none are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...diffusion.processes import Process, forward, reverse
from ...errors import ParameterError
from ..draws import Draws, split
from ..grid import grid_times
from ..options import option
from ..parameters import SamplingParameters
from ..randomness import Purpose, uniform
from .tail import TailOptions, TailRows
from .thinning import Thinning

ETA = {"cap": 0.01, "rescale": 0.05, "loop": 0.01}
"""How kappa goes, each with its authors' strength for text."""

SCHEDULES = (*ETA, "constant")
CAP, RESCALE, LOOP, CONSTANT = range(4)
LEAST = 1e-300


@dataclass(frozen=True)
class PsiOptions(TailOptions):
    kappa: float | None = option(
        None, "probability of an ancestral step, a constant; by kappa_schedule if it is null", minimum=0, maximum=1
    )
    kappa_schedule: Literal["cap", "rescale", "loop"] = option("cap", "how kappa goes where it is no constant")
    eta: float | None = option(
        None, "strength of correction, 0 for none; null is its authors' for each kappa_schedule", minimum=0, maximum=1
    )
    t_on: float | None = option(None, "time of the grid at which correction begins (1; loop 0.55)", above=0, maximum=1)
    t_off: float | None = option(None, "time of the grid at which it ends (0; loop 0.05)", minimum=0, maximum=1)
    alpha_on: float | None = option(None, "loop: the alpha at which it stays (0.9)", above=0, maximum=1)


@dataclass
class PsiRows(TailRows):
    """schedule: int64 [R], in `SCHEDULES`. strength: float64 [R], eta, or the constant kappa. t_loop: the time of alpha_on."""

    schedule: Tensor
    strength: Tensor
    t_on: Tensor
    t_off: Tensor
    t_loop: Tensor


class Psi(Thinning):
    """The sampler of the uniform and the hybrid process."""

    Options, Rows = PsiOptions, PsiRows

    def check(self, parameters: SamplingParameters) -> None:
        super().check(parameters)
        options = self.options(parameters)
        if options.kappa is not None and options.eta is not None:
            raise ParameterError("eta", "be absent where kappa is given", options.eta)
        if options.alpha_on is not None and (options.kappa is not None or options.kappa_schedule != "loop"):
            raise ParameterError("alpha_on", "be absent but for the kappa_schedule loop", options.alpha_on)
        t_on, t_off = _window(options)
        if t_off >= t_on:
            raise ParameterError("t_off", f"be below t_on = {t_on:g}", t_off)

    def columns(self, tokens: Sequence[int], parameters: SamplingParameters) -> dict[str, Any]:
        options = self.options(parameters)
        strength = ETA[options.kappa_schedule] if options.eta is None else options.eta
        is_constant, (t_on, t_off) = options.kappa is not None, _window(options)
        return super().columns(tokens, parameters) | {
            "schedule": CONSTANT if is_constant else SCHEDULES.index(options.kappa_schedule),
            "strength": float(options.kappa if is_constant else strength),
            "t_on": t_on,
            "t_off": t_off,
            "t_loop": time_of(self.process, 0.9 if options.alpha_on is None else options.alpha_on),
        }

    def times(self, rows: PsiRows, step: Tensor) -> tuple[Tensor, Tensor]:
        t, s = super().times(rows, step)
        return (_looped(rows, t), _looped(rows, s)) if bool((rows.schedule == LOOP).any()) else (t, s)

    def could_leave(self, rows: PsiRows, step: Tensor, column: Tensor, u_route: Tensor) -> Tensor:
        seed, sample = rows.seed.view(-1, 1, 1), rows.sample.view(-1, 1, 1)
        u = uniform(seed, sample, (step + 1).unsqueeze(2), column.unsqueeze(1), Purpose.PSI)
        corrects = u < 1 - self.kappa(rows, step).unsqueeze(2)
        return corrects | super().could_leave(rows, step, column, u_route)

    def moved(self, rows: PsiRows, plan: Any, number: Tensor, drawn: Draws) -> Tensor:
        row, column = split(plan.positions, rows.tokens.shape[1])
        step = rows.step.unsqueeze(1)
        t, s = (time[row, 0] for time in self.times(rows, step))
        z, kappa = rows.tokens.view(-1)[plan.positions], self.kappa(rows, step)[row, 0]
        u, u_noise = (
            uniform(rows.seed[row], rows.sample[row], number[row], column, purpose)
            for purpose in (Purpose.PSI, Purpose.NOISE_TOKEN)
        )
        return psi(self.process, z, drawn.probability, drawn.tokens, t, s, kappa, u, plan.u_route, u_noise)

    def kappa(self, rows: PsiRows, step: Tensor) -> Tensor:
        """Of grid steps [R, K], float64."""
        t, s = (self.process.masses(time).alpha for time in self.times(rows, step))
        kappa = kappa_of(rows.schedule.unsqueeze(1), rows.strength.unsqueeze(1), t, s)
        time = grid_times(step, rows.num_steps.unsqueeze(1))[0]
        inside = (time <= rows.t_on.unsqueeze(1) + 1e-9) & (time > rows.t_off.unsqueeze(1) + 1e-9)
        return torch.where(inside, kappa, 1.0)


def kappa_of(schedule: Tensor, strength: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """kappa inside of (t_off, t_on], float64; 1 at s = 0, where both ways are one. The arguments are broadcast."""
    noise = 1 - alpha_s
    capped = torch.minimum(strength, noise / alpha_t.clamp(min=LEAST))
    sigma = torch.where(schedule == CAP, capped, torch.where(schedule == RESCALE, strength * capped, strength))
    kappa = torch.where(schedule == CONSTANT, strength, (1 - sigma / noise.clamp(min=LEAST)).clamp(0, 1))
    return torch.where(noise > 0, kappa, 1.0)


def psi(
    process: Process,
    z: Tensor,
    theta_z: Tensor,
    drawn: Tensor,
    t: Tensor,
    s: Tensor,
    kappa: Tensor,
    u_psi: Tensor,
    u_route: Tensor,
    u_noise: Tensor,
) -> Tensor:
    """z at time t -> tokens at time s; as in `processes.reverse`, with kappa and the draw for it."""
    corrects = u_psi < 1 - kappa
    then = process.masses(torch.where(corrects, 0.0, s))
    back = reverse(process, z, theta_z, drawn, process.masses(t), then, u_route, u_noise)
    again = u_psi / (1 - kappa).clamp(min=LEAST)  # given that the corrector's way is taken, uniform in [0, 1)
    return torch.where(corrects, forward(process, back, s, again, u_noise), back)


def time_of(process: Process, alpha: float) -> float:
    """The time at which a process has this alpha, which falls with time: by bisection, as not every process has an inverse."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        is_later = float(process.masses(torch.tensor(middle, dtype=torch.float64)).alpha) > alpha
        low, high = (middle, high) if is_later else (low, middle)
    return high


def _window(options: PsiOptions) -> tuple[float, float]:
    """t_on and t_off."""
    t_on, t_off = (0.55, 0.05) if options.kappa is None and options.kappa_schedule == "loop" else (1.0, 0.0)
    given = options.t_on, options.t_off
    return float(t_on if given[0] is None else given[0]), float(t_off if given[1] is None else given[1])


def _looped(rows: PsiRows, time: Tensor) -> Tensor:
    """The grid's times [R, K] as the loop's rows have them."""
    on, off, stay = (each.unsqueeze(1) for each in (rows.t_on, rows.t_off, rows.t_loop))
    before = 1 - (1 - time) / (1 - on).clamp(min=LEAST) * (1 - stay)
    after = time / off.clamp(min=LEAST) * stay
    looped = torch.where(time > on + 1e-9, before, torch.where(time > off + 1e-9, stay, after))
    return torch.where((rows.schedule == LOOP).unsqueeze(1), looped, time)
