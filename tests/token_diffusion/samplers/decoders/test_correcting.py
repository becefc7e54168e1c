"""What every decoder that corrects promises: neighbours change nothing, changes replay, what is fixed stays, no mask is left."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import NeighbourDenoiser
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.engine.batch import Batch
from token_diffusion.engine.updates import Update
from token_diffusion.networks.denoiser import CallableDenoiser
from token_diffusion.samplers.parameters import SamplingParameters

VOCAB, MASK = 7, 3
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("ancestral", {"greedy_tail": True}),
    ("psi", {}),
    ("psi", {"kappa": 0.7, "t_on": 0.8}),
    ("psi", {"kappa_schedule": "loop", "eta": 0.05}),
    ("psi", {"kappa_schedule": "rescale", "greedy_tail": True}),
    ("gibbs", {}),
    ("gibbs", {"num_corrector_steps": 2, "num_corrected": 3}),
    ("gibbs", {"corrected": "least_confident", "greedy_tail": True}),
    ("self_correction", {}),
    ("self_correction", {"num_correction_steps": 6, "correction_temperature": 1.0, "num_corrected": 2}),
]
CANVASES = [([-1] * 9, None), ([1, -1, -1, 5, -1, -1, -1, 0], 3), ([-1, 2, -1], 1), ([2, 2, -1, -1, -1, -1], 2)]
SHAPING: list[dict[str, Any]] = [{}, {"top_p": 0.8}, {"temperature": 0.0}, {"top_k": 3, "min_p": 0.1}]


def requests(process: str) -> list[tuple[list[int], SamplingParameters]]:
    """Every way on some canvas, in some shape."""
    ways = WAYS if process != "absorbing" else [(*way,) for way in WAYS if way[0] in ("ancestral", "gibbs")]
    found = []
    for number, (sampler, options) in enumerate(ways):
        if process == "absorbing":
            options = {name: value for name, value in options.items() if name != "corrected"}
        tokens, block_size = CANVASES[number % len(CANVASES)]
        parameters = SamplingParameters(
            len(tokens), 2, (7, 2, 12)[number % 3], seed=number, block_size=block_size, sampler=sampler,
            options=options, logprobs=number % 2 == 0, **SHAPING[number % len(SHAPING)],
        )  # fmt: skip
        found.append((tokens, parameters))
    return found


def drive(process: str, asked: list[tuple[list[int], SamplingParameters]], apart: bool) -> dict[int, list[Update]]:
    """Every update of each request, alone or with the others, who come one after the other."""
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    updates: dict[int, list[Update]] = {}
    batch, waiting = Batch(NeighbourDenoiser(VOCAB), scheduler), list(enumerate(asked))
    while waiting or not batch.idle:
        if waiting and (batch.idle or not apart):
            key, (tokens, parameters) = waiting.pop(0)
            initial = batch.add(key, tokens, parameters)
            start = [(sample, place, token) for sample, row in enumerate(initial) for place, token in enumerate(row)]
            updates[key] = [Update(key, 0, 1.0, 0, start, [], None)]
        for update in batch.sweep():
            updates[int(update.key)].append(update)  # type: ignore[call-overload]
    return updates


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
def test_alone_and_among_others_every_update_is_the_same_and_keeps_the_promises(process: str) -> None:
    asked = requests(process)
    alone, among = drive(process, asked, apart=True), drive(process, asked, apart=False)
    assert [str(updates) for updates in alone.values()] == [str(among[key]) for key in alone]
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    samplers = Batch(NeighbourDenoiser(VOCAB), scheduler).samplers
    for key, (tokens, parameters) in enumerate(asked):
        updates, sampler = among[key], samplers.of(parameters)
        result = updates[-1].result
        assert result is not None
        state = [[0] * len(tokens) for _ in range(2)]
        changed = [[False] * len(tokens) for _ in range(2)]
        for number, update in enumerate(updates):
            assert len({(sample, position) for sample, position, _ in update.changes}) == len(update.changes)
            for sample, position, token in update.changes:
                assert number == 0 or state[sample][position] != token
                state[sample][position], changed[sample][position] = token, number > 0
        assert state == result.tokens
        for row in result.tokens:
            assert MASK not in row
            assert all(
                token in (fixed, token if fixed < 0 else fixed) for token, fixed in zip(row, tokens, strict=True)
            )
        bound = sampler.evaluations(tokens, parameters)
        assert result.nfe <= bound
        left = [update.left for update in updates[1:]]
        assert left == sorted(left, reverse=True) and left[-1] == 0
        for update in updates[1:]:
            assert update.left >= (result.nfe - update.nfe) * len(tokens)
        steps = [update.step for update in updates]
        assert steps == sorted(steps) and steps[-1] == sampler.steps(tokens, parameters)  # type: ignore[attr-defined]
        assert updates[-1].t == 0
        touched = torch.tensor(result.step_map) > 0
        assert touched.tolist() == changed
        if parameters.logprobs:
            assert result.logprobs is not None
            told = torch.tensor([[value is not None for value in row] for row in result.logprobs])
            assert bool((touched | ~told).all()) and bool(told.any())


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_nothing_is_drawn_that_no_sample_may_hold(process: str) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    denoiser: Any = CallableDenoiser(NeighbourDenoiser(VOCAB), "cpu")
    denoiser.forbidden = (0, 5)
    for sampler, options in WAYS[1:]:
        batch = Batch(denoiser, scheduler)
        batch.add(0, [-1] * 6, SamplingParameters(6, 8, 9, sampler=sampler, options=options))
        while not batch.idle:
            (update,) = batch.step()
        assert update.result is not None
        assert not {0, 3, 5} & set(torch.tensor(update.result.tokens).flatten().tolist())
