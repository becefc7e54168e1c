"""At which times the NELBO is looked at: it is an integral over t, estimated at K of them, one in each K-th of it.

Absorbing noise can also be drawn by its count (LLaDA, arXiv 2502.09992, appendix B): of n tokens, l ~ U{1..n} are masked,
each weighed by n / l. A set of l masked tokens then has the weight (1/n) (n/l) / C(n, l) = 1 / (l C(n, l)), which is what
the integral of -alpha' / (1 - alpha) times its probability over all times gives, whatever alpha: the same NELBO, but no
variance is left from how many tokens a time happens to mask. (A network that is told the time is told the one at which l of
n tokens are expected to be masked: its bound is then that of a sampler which does so, too.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .processes import Absorbing, Hybrid, Process
from .scheduler import MIN_T


def time_power(process: Process) -> float:
    """The power p with which t = u^p, u uniform, is small often enough; each time is then weighed by dt/du.

    The NELBO of a token that noise has hit grows as 1/t, and is hit with a probability that falls as t for absorbing and
    uniform, but only as t^(gamma/2) for hybrid: with t uniform, nearly all of its variance would come from times so small that
    a validation draws none. With t = u^(2/gamma) hybrid varies as the others do.
    """
    return max(1.0, 2 / process.gamma) if isinstance(process, Hybrid) else 1.0


def time_of_count(process: Absorbing, share: Tensor) -> tuple[Tensor, Tensor]:
    """The t at which this share of the tokens, float64 in (0, 1], is expected to be masked, and what makes of that t's weight
    in the NELBO, -alpha'(t) / (1 - alpha(t)), the weight of a count, 1 / share.
    """
    t = process.schedule.inverse(share * process.schedule.noise(torch.ones_like(share))).clamp(min=MIN_T)
    return t, 1 / (share * process.schedule.rate(t))
