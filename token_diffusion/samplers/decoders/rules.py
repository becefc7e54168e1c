"""How many of the ranked masks a step sets, and which: by a quota known beforehand, or by a rule that looks at the scores."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=1024)
def due_steps(masks: int, steps: int | None, quota: str, end: float, schedule: Any) -> tuple[int, ...]:
    """The step, counted from 1, at which the first, second, … of so many masks is set; without a grid they come one by one.

    "even" is LLaDA's: what is left over goes to the first steps. "schedule" is Dream's: of a grid of times from 1 to `end`, step
    i sets the whole part of masks * (1 - noise(t_i+1) / noise(t_i)), in float32 as there, and the last one all that are left.
    """
    if steps is None or (quota == "even" and steps >= masks):
        return tuple(range(1, masks + 1))
    if quota == "even":
        each, more = divmod(masks, steps)
        return tuple(step for step in range(1, steps + 1) for _ in range(each + (step <= more)))
    noise = schedule.noise(torch.linspace(1, end, steps + 1, dtype=torch.float32).double())
    leave = (1 - (noise[1:] / noise[:-1]).float()).numpy()
    due: list[int] = []
    # of fewer masks no step sets more: those that would set none of all set none
    for index in [*np.flatnonzero(np.float32(masks) * leave[:-1] >= 1).tolist(), steps - 1]:
        left = masks - len(due)
        due += [index + 1] * (left if index == steps - 1 else int(np.float32(left) * leave[index]))
    return tuple(due)


def chosen(
    score: Tensor,
    asked: Tensor,
    quota: Tensor,
    threshold: Tensor,
    factor: Tensor,
    entropy_bound: Tensor,
    entropy: Tensor,
) -> Tensor:
    """Which of the positions `asked` bool [R, L] are set, bool [R, L]: the highest in score [R, L], the first of equal ones.

    Args:
        quota: int64 [R], how many where a row has no rule. threshold, factor, entropy_bound: float64 [R], NaN where it is not the
            row's rule; by a rule at least one is set. entropy: [R, L].
    """
    order = score.masked_fill(~asked, -torch.inf).argsort(dim=1, descending=True, stable=True)
    ranked, nats = score.gather(1, order), entropy.gather(1, order)
    rank = torch.arange(score.shape[1]).unsqueeze(0)  # from 0
    bars, bounds = threshold.unsqueeze(1), entropy_bound.unsqueeze(1)
    bars = torch.where(factor.isnan().unsqueeze(1), bars, 1 - factor.unsqueeze(1) / (rank + 2))
    # the largest prefix: both rules, once broken, stay so
    enough = torch.where(bounds.isnan(), ranked >= bars, nats.cumsum(1) - nats.cummax(1).values <= bounds)
    by_rule = enough.long().cumprod(1).sum(1).clamp(min=1)
    has_rule = ~(threshold.isnan() & factor.isnan() & entropy_bound.isnan())
    count = torch.where(has_rule, by_rule, quota).unsqueeze(1)
    return torch.zeros_like(asked).scatter_(1, order, rank < count) & asked


def perturbed(score: Tensor, temperature: Tensor, u: Tensor) -> Tensor:
    """Scores whose n highest are n draws without replacement with probabilities proportional to exp(score / temperature).

    By Gumbel noise of uniforms u in [0, 1); where the temperature is 0 the score as it is.
    """
    exponential = -u.clamp(min=torch.finfo(torch.float64).tiny).log()
    return torch.where(temperature > 0, score / temperature.clamp(min=1e-12) - exponential.log(), score)
