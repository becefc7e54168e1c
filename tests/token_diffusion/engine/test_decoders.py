"""Every sampler of the table in one batch, with one forward pass a tick: each row has what it has alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
from torch import Tensor

from tests.tiny import PROCESSES, NeighbourDenoiser
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.engine.batch import Batch, Result, Update
from token_diffusion.samplers import price
from token_diffusion.samplers.catalogue import KINDS
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import OPEN

VOCAB, MASK, END = 9, 4, 2

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ancestral": [{}, {"greedy_tail": True}],
    "confidence": [
        {},
        {"threshold": 0.5},
        {"factor": 0.5},
        {"alg_temp": 0.4},
        {"quota": "schedule", "ranked_by": "shaped"},
    ],
    "margin": [{}, {"ranked_by": "drawn", "threshold": 0.3}],
    "entropy": [{"entropy_bound": 0.5}, {"quota": "schedule"}],
    "remdm": [{"remask": way} for way in ("cap", "rescale", "conf", "loop", "forward_backward")],
    "gibbs": [{}, {"num_corrector_steps": 2, "num_corrected": 2}],
}
"""More than one way to ask for some; without any, as it comes."""


class Counted(NeighbourDenoiser):
    """It has learnt an end token, and counts its calls."""

    calls = 0
    ends = (END,)

    def __call__(self, tokens: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return super().__call__(tokens, t)


def asked(process: str) -> list[tuple[list[int], SamplingParameters]]:
    """Each sampler in each way, guided and not, with random holes, grids, blocks, shaping and seeds; the same every time."""
    choose, found = random.Random(process), []
    ids = [token for token in range(VOCAB) if token not in (MASK, END)]
    for sampler, kind in KINDS.items():
        if process not in kind.decoders:
            continue
        for options in OPTIONS.get(sampler, [{}]):
            for guidance_scale in (1.0, 2.5) if process == "absorbing" else (1.0,):
                tokens = [choose.choice([OPEN, OPEN, choose.choice(ids)]) for _ in range(choose.randint(8, 14))]
                tokens[0], tokens[-1] = choose.choice(ids), OPEN
                own: dict[str, Any] = {
                    "num_samples": choose.randint(1, 2),
                    "num_inference_steps": choose.choice([1, 3, 12]),
                    "temperature": choose.choice([0.0, 0.7, 1.0]),
                    "top_p": choose.choice([0.8, 1.0]),
                    "top_k": choose.choice([0, 4]),
                    "seed": choose.randrange(2**63),
                    "block_size": choose.choice([None, 3]),
                    "logprobs": choose.random() < 0.5,
                    "suppress_end": choose.random() < 0.3,
                }
                more: dict[str, Any] = {"sampler": sampler, "options": options, "guidance_scale": guidance_scale}
                found.append((tokens, SamplingParameters(len(tokens), **own, **more)))
    return found


def told(batch: Batch) -> dict[Any, list[Update]]:
    """What each request is told until all are done."""
    updates: dict[Any, list[Update]] = {}
    while not batch.idle:
        for update in batch.sweep():
            updates.setdefault(update.key, []).append(update)
    return updates


def result_of(updates: list[Update]) -> Result:
    assert updates[-1].result is not None, updates[-1].error
    return updates[-1].result


@pytest.fixture(scope="module", params=PROCESSES)
def together(request: pytest.FixtureRequest) -> tuple[str, dict[Any, Any], dict[Any, list[Update]]]:
    """The process, the initial states, and what each is told."""
    scheduler, denoiser = TokenDiffusionScheduler(VOCAB, MASK, forward_process=request.param), Counted(VOCAB)
    batch = Batch(denoiser, scheduler)
    initial = {key: batch.add(key, *each) for key, each in enumerate(asked(request.param))}
    assert len(batch.lanes) == 1
    ticks = 0
    updates: dict[Any, list[Update]] = {}
    while not batch.idle:
        for update in batch.sweep():
            updates.setdefault(update.key, []).append(update)
        ticks += 1
    assert denoiser.calls == ticks
    return request.param, initial, updates


def test_each_has_what_it_has_alone(together: Any) -> None:
    process, _, updates = together
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    requests = asked(process)
    assert len(requests) >= {"absorbing": 30, "uniform": 4, "hybrid": 4}[process]
    for key, request in enumerate(requests):
        batch = Batch(Counted(VOCAB), scheduler)
        batch.add(key, *request)
        assert told(batch)[key] == updates[key], request


def test_changes_replay_to_tokens_without_a_mask_and_what_is_given_stays(together: Any) -> None:
    process, initial, updates = together
    for key, (tokens, parameters) in enumerate(asked(process)):
        result, state = result_of(updates[key]), [list(row) for row in initial[key]]
        logprobs: list[list[float | None]] = [[None] * len(tokens) for _ in state]
        for update in updates[key]:
            assert (update.logprobs is not None) == parameters.logprobs
            for index, (sample, position, token) in enumerate(update.changes):
                state[sample][position] = token
                logprobs[sample][position] = update.logprobs[index] if update.logprobs else None
        assert state == result.tokens
        assert result.logprobs == (logprobs if parameters.logprobs else None)
        for row in result.tokens:
            assert MASK not in row
            assert all(given in (OPEN, token) for given, token in zip(tokens, row, strict=True))
            drawn = {token for given, token in zip(tokens, row, strict=True) if given == OPEN}
            assert not (parameters.suppress_end and process == "absorbing" and END in drawn)


def test_none_needs_more_than_its_price(together: Any) -> None:
    process, _, updates = together
    samplers = Batch(Counted(VOCAB), TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)).samplers
    for key, (tokens, parameters) in enumerate(asked(process)):
        sampler, result = samplers.of(parameters), result_of(updates[key])
        bound = sampler.views * sampler.evaluations(tokens, parameters)
        assert 0 < result.nfe <= bound
        assert price(sampler, tokens, parameters) == parameters.num_samples * len(tokens) * bound
        left = [update.left for update in updates[key]]
        assert left == sorted(left, reverse=True) and left[-1] == 0
