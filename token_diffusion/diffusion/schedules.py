"""Noise schedules: alpha(t), the probability that a token is still clean at time t.

Every schedule falls from alpha(0) = 1 (clean) to t = 1 (noise). Times and probabilities are float64 tensors of any shape.
`noise` is 1 - alpha and `rate` is -alpha' / (1 - alpha), both in closed forms that do not subtract near-equal numbers:
as t -> 0, 1 - alpha computed from alpha would lose every digit that the 1/t weight then magnifies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ParameterError


class Schedule(Protocol):
    """What a process asks of a schedule; every method is elementwise, float64 in and out."""

    def alpha(self, t: Tensor) -> Tensor:
        """alpha(t), the probability that a token is kept up to t."""

    def noise(self, t: Tensor) -> Tensor:
        """1 - alpha(t), accurate as t -> 0."""

    def rate(self, t: Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)), the weight of the absorbing NELBO (MDLM, arXiv 2406.07524, eq. 11)."""

    def decay(self, t: Tensor) -> Tensor:
        """-alpha'(t), the weight that the uniform NELBO builds on."""

    def inverse(self, noise: Tensor) -> Tensor:
        """The t at which 1 - alpha(t) = `noise`."""


@dataclass(frozen=True)
class LogLinear:
    """alpha = 1 - (1 - eps) t (MDLM, SEDD): sigma = -log(alpha) is the log-linear noise of those papers."""

    eps: float = 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.eps) * t

    def noise(self, t: Tensor) -> Tensor:
        return (1 - self.eps) * t

    def rate(self, t: Tensor) -> Tensor:
        return 1 / t

    def decay(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 - self.eps)

    def inverse(self, noise: Tensor) -> Tensor:
        return (noise / (1 - self.eps)).clamp(max=1)


@dataclass(frozen=True)
class Linear(LogLinear):
    """alpha = 1 - t: log-linear without the floor that keeps alpha(1) above zero."""

    eps: float = 0.0


@dataclass(frozen=True)
class Cosine:
    """alpha = 1 - cos(pi (1 - t) / 2) (MD4, arXiv 2406.04329)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 2 * torch.sin(math.pi / 4 * (1 - t)) ** 2

    def noise(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def rate(self, t: Tensor) -> Tensor:
        return math.pi / 2 / torch.tan(math.pi / 2 * t)

    def decay(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.cos(math.pi / 2 * t)

    def inverse(self, noise: Tensor) -> Tensor:
        return 2 / math.pi * torch.asin(noise.clamp(max=1))


@dataclass(frozen=True)
class Geometric:
    """alpha = exp(-(sigma - sigma_min)), sigma = sigma_min^(1-t) sigma_max^t (SEDD, arXiv 2310.16834).

    SEDD has exp(-sigma), which begins below 1: the share 1 - exp(-sigma_min) of the tokens would be noise at t = 0 already,
    and the NELBO, an integral over t > 0, would lack what they cost. Measured from its start it lacks nothing.
    """

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    @property
    def log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def _risen(self, t: Tensor) -> Tensor:
        """sigma(t) - sigma(0)."""
        return self.sigma_min * torch.expm1(t * self.log_ratio)

    def _slope(self, t: Tensor) -> Tensor:
        """sigma'(t)."""
        return self.sigma_min * self.log_ratio * torch.exp(t * self.log_ratio)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._risen(t))

    def noise(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._risen(t))

    def rate(self, t: Tensor) -> Tensor:
        return self._slope(t) / torch.expm1(self._risen(t))

    def decay(self, t: Tensor) -> Tensor:
        return self._slope(t) * torch.exp(-self._risen(t))

    def inverse(self, noise: Tensor) -> Tensor:
        return (torch.log1p(-torch.log1p(-noise) / self.sigma_min) / self.log_ratio).clamp(max=1)


ALPHA_SCHEDULES = ("log_linear", "linear", "cosine", "geometric")


def make_schedule(
    alpha_schedule: str, *, eps: float = 1e-3, sigma_min: float = 1e-4, sigma_max: float = 20.0
) -> Schedule:
    """The schedule by its name. Raises `ParameterError` for an unknown name or a parameter outside its range."""
    if alpha_schedule not in ALPHA_SCHEDULES:
        raise ParameterError("alpha_schedule", f"be one of {', '.join(ALPHA_SCHEDULES)}", alpha_schedule)
    if not 0 < eps < 1:
        raise ParameterError("eps", "be in (0, 1)", eps)
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ParameterError("sigma_min, sigma_max", "satisfy 0 < sigma_min < sigma_max", (sigma_min, sigma_max))
    if alpha_schedule == "log_linear":
        return LogLinear(eps)
    if alpha_schedule == "linear":
        return Linear()
    if alpha_schedule == "cosine":
        return Cosine()
    return Geometric(sigma_min, sigma_max)
