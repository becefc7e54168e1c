"""The three forward processes, each with its reverse routes and its NELBO.

At time t a token x has become (GIDD, arXiv 2503.04482, eq. 2-3)

    q_t(z | x) = alpha 1[z = x]  +  mask 1[z = m]  +  uniform / N,          alpha + mask + uniform = 1,

where N counts the states that uniform noise can land on. Absorbing (MDLM) has uniform = 0, uniform (UDLM) has mask = 0,
hybrid (GIDD) has both. Everything below follows from these three masses, so a process is one small class.

Reverse step from t to s < t (posterior q(z_s | z_t, x) with the network's theta in place of x), as a mixture of routes.
With f_z(t) = P(noise lands on z), alpha_ts = alpha_t / alpha_s, b = f_z(t) - alpha_ts f_z(s), Z = alpha_t theta_z + f_z(t):

    leave z with probability b / Z, then   alpha_s: draw from theta,   mask_s: become m,   uniform_s: draw uniformly;
    stay otherwise.

These mixtures are the published posteriors, term by term, without a vocabulary-sized tensor: only the scalar theta_z enters.
Because theta_z >= 0, leaving has the bound b / f_z(t), free of the network: positions whose draw exceeds it stay whatever
the network says. All scalars are float64; the last step has s = 0, where alpha_s = 1, so neither mask nor noise can be left.

The NELBO is the integral over t of weight * divergence (GIDD Thm. 3.7), plus KL(q_1 || prior) where the noise does not quite
end in what sampling starts from: the divergence is what the network can lower, the one part that reads the logits; the weight
is a scalar of z, x and t, and some training replaces it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .likelihood import absorbing_cross_entropy, flat_noise_divergence
from .schedules import Schedule

LEAST_NOISE = 1e-15
"""Of a single state, in the divergence: with less, a ratio of probabilities could not be told from 0 in float64."""


class Masses(NamedTuple):
    """Where a token is at time t: kept, masked, or redrawn uniformly. Float64, of the shape of t; they sum to 1."""

    alpha: Tensor
    mask: Tensor
    uniform: Tensor


class Process(Protocol):
    """What the scheduler, the samplers and the trainer ask of a process."""

    @property
    def name(self) -> str: ...

    @property
    def states(self) -> NoiseStates: ...

    def masses(self, t: Tensor) -> Masses:
        """The three masses at times t in [0, 1]; exactly (1, 0, 0) at t = 0."""

    def divergence(self, logits: Tensor, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """How far theta is from x, nats [B, L]: logits [B, L, V], x and z [B, L] int64, t [B, L] float64."""

    @property
    def prior_divergence(self) -> float:
        """KL(q_1(.|x) || prior), nats a token: the part of the NELBO that no network can change."""

    def reads(self, z: Tensor) -> Tensor:
        """Where the divergence depends on the logits, bool [B, L]; elsewhere it is 0 whatever they are."""

    def weights(self, x: Tensor, z: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Factors of the divergence, float64 [B, L]: "elbo" makes it the NELBO, the others are for training only."""


@dataclass(frozen=True)
class NoiseStates:
    """The N token ids that uniform noise can land on: all V, or all but the mask."""

    vocab_size: int
    mask_token_id: int
    exclude_mask: bool = True

    @property
    def count(self) -> int:
        """N."""
        return self.vocab_size - 1 if self.exclude_mask else self.vocab_size

    def draw(self, u: Tensor) -> Tensor:
        """Token ids int64 from uniforms u in [0, 1), each of the N states equally likely."""
        index = (u * self.count).long().clamp_(max=self.count - 1)
        return index + (index >= self.mask_token_id).long() if self.exclude_mask else index

    def landing(self, z: Tensor, masses: Masses) -> Tensor:
        """f_z, the probability that the noise lands on z [B, L]."""
        is_mask = z == self.mask_token_id
        each = masses.uniform / self.count
        on_mask = masses.mask if self.exclude_mask else masses.mask + each
        return torch.where(is_mask, on_mask, each)


def prior(process: Process, u: Tensor) -> Tensor:
    """Tokens at t = 1 from uniforms u [B, L]: all mask where the process ends in the mask, else uniform states."""
    ends_in_mask = process.masses(torch.ones((), dtype=torch.float64)).mask > 0.5
    if ends_in_mask:
        return torch.full(u.shape, process.states.mask_token_id, dtype=torch.int64, device=u.device)
    return process.states.draw(u)


def forward(process: Process, x: Tensor, t: Tensor, u_route: Tensor, u_token: Tensor) -> Tensor:
    """z ~ q_t(z | x): x [B, L] int64, t broadcastable to it, two independent uniforms [B, L] -> z [B, L] int64."""
    alpha, mask, _ = process.masses(t)
    noise = torch.where(u_route < alpha + mask, process.states.mask_token_id, process.states.draw(u_token))
    return torch.where(u_route < alpha, x, noise)


def leave_bound(process: Process, z: Tensor, now: Masses, then: Masses) -> Tensor:
    """b / f_z(t), the largest probability with which z may leave between t (`now`) and s (`then`); needs no network."""
    landed = process.states.landing(z, now)
    b = landed - now.alpha / then.alpha * process.states.landing(z, then)
    return torch.where(landed > 0, b / landed, 0.0).clamp_(0, 1)


def leave_probability(process: Process, z: Tensor, theta_z: Tensor, now: Masses, then: Masses) -> Tensor:
    """b / Z: the probability that z leaves, given the network's probability theta_z of z itself (0 for the mask)."""
    landed = process.states.landing(z, now)
    b = landed - now.alpha / then.alpha * process.states.landing(z, then)
    return torch.where(b > 0, b / (now.alpha * theta_z + landed), 0.0).clamp_(0, 1)


def reverse(
    process: Process,
    z: Tensor,
    theta_z: Tensor,
    drawn: Tensor,
    now: Masses,
    then: Masses,
    u_route: Tensor,
    u_noise: Tensor,
) -> Tensor:
    """The routes taken: z at time t -> tokens at time s, int64 of the shape of z.

    theta_z is the network's probability of z, `drawn` its tokens for the positions that draw from theta; `u_route` picks the
    route and `u_noise` the state of a uniform redraw.
    """
    leave = leave_probability(process, z, theta_z, now, then)
    arrival = u_route / leave.clamp(min=1e-300)  # given that z leaves, uniform in [0, 1): it picks where to
    noise = torch.where(arrival < then.alpha + then.mask, process.states.mask_token_id, process.states.draw(u_noise))
    return torch.where(u_route < leave, torch.where(arrival < then.alpha, drawn, noise), z)


def _masses(alpha: Tensor, mask: Tensor, uniform: Tensor, t: Tensor) -> Masses:
    """At t = 0 the token is clean, whatever a schedule's rounding makes of it."""
    clean = t <= 0
    return Masses(torch.where(clean, 1.0, alpha), torch.where(clean, 0.0, mask), torch.where(clean, 0.0, uniform))


@dataclass(frozen=True)
class Absorbing:
    """MDLM (arXiv 2406.07524): a token is kept or becomes the mask.

    The masking probability is (1 - alpha_t) / (1 - alpha_1): relative to t = 1, so that t = 1 is exactly the all-mask
    prior which sampling starts from. The weight does not change by it, and without it the bound would lack a share
    alpha_1 (eps for log-linear, e^-sigma_max for geometric) of the cost of the first token, hence be no bound.
    """

    schedule: Schedule
    states: NoiseStates
    name: str = "absorbing"
    prior_divergence: float = 0.0

    def masses(self, t: Tensor) -> Masses:
        mask = self.schedule.noise(t) / self.schedule.noise(torch.ones_like(t))
        return _masses(1 - mask, mask, torch.zeros_like(mask), t)

    def divergence(self, logits: Tensor, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """-ln theta_x at masked positions, 0 elsewhere: a token that shows is known (MDLM eq. 11)."""
        cross_entropy = absorbing_cross_entropy(logits, x, self.states.mask_token_id)
        return torch.where(self.reads(z), cross_entropy, 0.0)

    def reads(self, z: Tensor) -> Tensor:
        return z == self.states.mask_token_id

    def weights(self, x: Tensor, z: Tensor, t: Tensor) -> dict[str, Tensor]:
        """-alpha' / (1 - alpha) (MDLM eq. 11)."""
        return {"elbo": self.schedule.rate(t)}


@dataclass(frozen=True)
class Uniform:
    """UDLM (arXiv 2412.10193): a token is kept or redrawn uniformly from the N states.

    The paper takes alpha(1) for 0. What its eps leaves, KL(q_1 || uniform), is about a thousandth of a nat at V = 4096.
    """

    schedule: Schedule
    states: NoiseStates
    name: str = "uniform"

    def masses(self, t: Tensor) -> Masses:
        noise = self.schedule.noise(t)
        return _masses(self.schedule.alpha(t), torch.zeros_like(noise), noise, t)

    @property
    def prior_divergence(self) -> float:
        """With alpha at t = 1 and b = (1 - alpha) / N:  (alpha + b) ln(N (alpha + b)) + (N - 1) b ln(N b)."""
        alpha, n = float(self.schedule.alpha(torch.ones((), dtype=torch.float64))), self.states.count
        b = (1 - alpha) / n
        return (alpha + b) * math.log(n * (alpha + b)) + (n - 1) * b * math.log1p(-alpha)

    def divergence(self, logits: Tensor, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """KL(q_t(.|x) || p) + r - 1 - ln r, r = q_t(z|x) / p_z (UDLM eq. 18)."""
        return flat_noise_divergence(logits, x, z, *self._alpha_and_each(t), self.states.mask_token_id)

    def reads(self, z: Tensor) -> Tensor:
        return torch.ones_like(z, dtype=torch.bool)

    def weights(self, x: Tensor, z: Tensor, t: Tensor) -> dict[str, Tensor]:
        """-alpha' / (alpha N q_t(z|x)) (UDLM eq. 18)."""
        alpha, each = self._alpha_and_each(t)
        q_z = torch.where(z == x, alpha + each, each)
        return {"elbo": self.schedule.decay(t) / (alpha * self.states.count * q_z)}

    def _alpha_and_each(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and each state's noise, kept off 0: as alpha -> 0 the divergence is O(alpha^2) and the weight O(1/alpha)."""
        each = (self.schedule.noise(t) / self.states.count).clamp(min=LEAST_NOISE)
        return self.schedule.alpha(t).clamp(min=1e-9), each


@dataclass(frozen=True)
class Hybrid:
    """GIDD (arXiv 2503.04482): masks and uniform noise mixed; at t = 1/2 a share p_uniform of the tokens is uniform.

        c = B t^(gamma/2) (1-t)^(gamma/2),  B = 2^gamma p_u / (1 - p_u),  C = 1 + c
        alpha = (1 - t) / C,   mask = t / C,   uniform = c / C.

    `p_uniform` is clipped at e^-20 from below as in the paper's code. That code also keeps t between t_eps = 1e-4 and 1 - t_eps,
    in its bound too, which leaves out the noise of the first moment, c(t_eps): three thousandths of the bound. Here the
    trainer alone draws its times so; noise and NELBO hold for every t.
    """

    states: NoiseStates
    p_uniform: float = 0.1
    gamma: float = 1.0
    name: str = "hybrid"
    prior_divergence: float = 0.0

    @property
    def b(self) -> float:
        p_uniform = max(self.p_uniform, math.exp(-20))
        return 2**self.gamma * p_uniform / (1 - p_uniform)

    def _c(self, t: Tensor) -> Tensor:
        return self.b * (t * (1 - t)) ** (self.gamma / 2)

    def masses(self, t: Tensor) -> Masses:
        c = self._c(t)
        return _masses((1 - t) / (1 + c), t / (1 + c), c / (1 + c), t)

    def divergence(self, logits: Tensor, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """KL(q_t(.|x) || p) + r - 1 - ln r, r = q_t(z|x) / p_z (GIDD Thm. 3.7)."""
        masses = self.masses(self._inside(t))
        each = (masses.uniform / self.states.count).clamp(min=LEAST_NOISE)
        return flat_noise_divergence(logits, x, z, masses.alpha, each, self.states.mask_token_id)

    def reads(self, z: Tensor) -> Tensor:
        return torch.ones_like(z, dtype=torch.bool)

    def weights(self, x: Tensor, z: Tensor, t: Tensor) -> dict[str, Tensor]:
        """The weight of a position by what z is there: the mask, noise (a wrong token), or clean (z = x).

            elbo      1 / (t (1-t)),    w = (2t + gamma - 2 gamma t) / (2t (1-t)),    w (c/N) / (1 - t + c/N)
            clip      the same, 1 at most
            dynamic   2,    1,    (B/N) e^(-gamma lambda / 2);    2 at most

        "elbo" is GIDD's Thm. 3.7 in closed form; it needs gamma <= 2, beyond which w turns negative near t = 1. As it is
        unbounded at both ends of time, GIDD trains with the other two. lambda = ln((1-t)/t): for gamma = 1, "dynamic"
        has the proportions of "elbo", but for the c/N in its denominator, without the common growth towards the ends.
        GIDD's code has sigmoid(-t) in the place of -lambda, which is nearly constant; this is the formula as published.
        """
        t = self._inside(t)
        each = self._c(t) / self.states.count
        noise = (2 * t + self.gamma - 2 * self.gamma * t) / (2 * t * (1 - t))

        def by_state(on_mask: Tensor | float, on_noise: Tensor | float, on_clean: Tensor) -> Tensor:
            weight = torch.where(z == x, on_clean, on_noise)
            return torch.where(z == self.states.mask_token_id, on_mask, weight)

        elbo = by_state(1 / (t * (1 - t)), noise, noise * each / (1 - t + each))
        clean = self.b / self.states.count * (t / (1 - t)) ** (self.gamma / 2)
        return {"elbo": elbo, "clip": elbo.clamp(max=1), "dynamic": by_state(2.0, 1.0, clean).clamp(max=2)}

    def _inside(self, t: Tensor) -> Tensor:
        """As close to 0 and 1 as the weights, which grow without bound there, leave float32 its digits."""
        return t.clamp(1e-9, 1 - 1e-9)
