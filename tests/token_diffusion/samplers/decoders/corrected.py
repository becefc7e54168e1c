"""What tests of decoders that correct have in common: the exact law of noisy text, and rows put on it."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from tests.laws import Law
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.samplers import Samplers
from token_diffusion.samplers.parameters import SamplingParameters


def noised(law: Law, scheduler: TokenDiffusionScheduler, t: float) -> Law:
    """The law of a law's text at time t, over all sequences of the vocabulary that it can be."""
    process, length = scheduler.process, law.sequences.shape[1]
    states = torch.tensor(list(itertools.product(range(law.vocab_size), repeat=length)))
    masses = process.masses(torch.tensor(t, dtype=torch.float64))
    same = (states.unsqueeze(1) == law.sequences.unsqueeze(0)).double()
    likelihood = masses.alpha * same + process.states.landing(states, masses).unsqueeze(1)
    return Law(law.vocab_size, law.mask_token_id, states, likelihood.prod(-1) @ law.probability)


def rows_at(
    scheduler: TokenDiffusionScheduler, tokens: Tensor, step: int, num_steps: int, sampler: str, **options: Any
) -> tuple[Any, Any]:
    """The sampler, and rows of it that hold `tokens` [R, L] and have done this many of their grid's steps."""
    count, length = tokens.shape
    parameters = SamplingParameters(length, count, num_steps, sampler=sampler, options=options)
    decoder = Samplers(scheduler).of(parameters)
    rows = decoder.rows([-1] * length, parameters)
    rows.tokens.copy_(tokens)
    rows.step.fill_(step)
    return decoder, rows


def advance(decoder: Any, rows: Any, denoiser: Any) -> Any:
    """One tick of rows; their plan."""
    plan = decoder.plan(rows)
    shown = rows.tokens if plan.tokens is None else plan.tokens
    decoder.commit(rows, plan, denoiser(shown, plan.t).flatten(0, 1)[plan.positions])
    return plan
