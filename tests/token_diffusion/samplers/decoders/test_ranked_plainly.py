"""Decoding by rank against a loop in plain words, over random requests: each alone, and all of them in one batch."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.token_diffusion.samplers.decoders.recordings import MASK, VOCAB_SIZE, Network, networks
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.diffusion.shaping import inverse_cdf, probabilities
from token_diffusion.engine.batch import Batch
from token_diffusion.engine.updates import Result, Update
from token_diffusion.samplers import Samplers
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.randomness import Purpose, uniform

FORBIDDEN = (2, 17)
SCHEDULER = TokenDiffusionScheduler(VOCAB_SIZE, MASK, alpha_schedule="cosine")
COUNT = 40


class Rowwise:
    """A network of the recordings as a denoiser: each row alone, at its own length, whatever is beside it."""

    device, forbidden = torch.device("cpu"), FORBIDDEN

    def __init__(self, network: Network) -> None:
        self.network = network

    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        logits = torch.zeros(*tokens.shape, VOCAB_SIZE)
        for row, is_valid in enumerate(valid):
            logits[row, is_valid] = self.network(tokens[row : row + 1, is_valid], t)[0]
        return logits.flatten(0, 1)[positions]


def draw(parameters: SamplingParameters, sample: int, step: int, position: int, purpose: Purpose) -> float:
    seed, *counters = (torch.tensor([each]) for each in (parameters.seed, sample, step, position))
    return uniform(seed, counters[0], counters[1], counters[2], purpose).item()


def counts(parameters: SamplingParameters, masks: int) -> list[int]:
    """How many of a block's masks each of its steps sets, by a quota."""
    n, options = parameters.num_inference_steps, parameters.options
    if n is None:
        return [1] * masks
    if options.get("quota", "even") == "even":
        return [masks // n + (i < masks % n) for i in range(n)]
    t = torch.linspace(1, options.get("grid_eps", 0.0), n + 1)
    noise, found = SCHEDULER.process.masses(t.double()).mask, list[int]()
    for i in range(n):
        found.append(masks - sum(found))
        if i < n - 1:
            found[i] = int(found[i] * (1 - (noise[i + 1] / noise[i]).float()))
    return found


def look(
    parameters: SamplingParameters, sample: int, step: int, position: int, logits: Tensor
) -> tuple[int, float, float]:
    """The token that a position would get, its score and the entropy there."""
    shape = (parameters.top_k or None, parameters.top_p, parameters.min_p)
    top_k, top_p, min_p = (None if each is None else torch.tensor([each]) for each in shape)

    def at(temperature: float) -> Tensor:
        return probabilities(logits.unsqueeze(0), MASK, torch.tensor([temperature]), top_k, top_p, min_p)

    u = torch.tensor([draw(parameters, sample, step, position, Purpose.TOKEN)])
    token = int(logits.argmax() if parameters.temperature == 0 else inverse_cdf(at(parameters.temperature), u))
    ranked_by, plain = parameters.options.get("ranked_by", "largest"), logits.softmax(-1)
    theta = at(parameters.temperature or 1.0)[0] if ranked_by == "shaped" else plain
    first, second = theta.double().topk(2).values.tolist()
    entropy = torch.special.entr(theta.double()).sum().item()
    scores = {
        "confidence": plain.max().item() if ranked_by == "largest" else theta[token].item(),
        "margin": first - second,
        "entropy": -entropy,
        "random": draw(parameters, sample, step, position, Purpose.POSITION),
    }
    return token, scores[parameters.sampler], entropy


def how_many(options: dict[str, Any], ranked: list[float], entropies: list[float], quota: int) -> int:
    """Of positions in the order of their rank, by the rule or the quota."""
    if (bar := options.get("threshold")) is not None:
        return max(1, sum(score >= bar for score in ranked))
    if (factor := options.get("factor")) is not None:
        passing = [score >= 1 - factor / (r + 1) for r, score in enumerate(ranked, start=1)]
        return next((r for r, each in enumerate(passing) if not each and r), len(ranked))
    if (bound := options.get("entropy_bound")) is not None:
        return max(k for k in range(1, len(ranked) + 1) if k == 1 or sum(entropies[:k]) - max(entropies[:k]) <= bound)
    return quota


def plainly(
    parameters: SamplingParameters, tokens: list[int], sample: int, network: Network
) -> tuple[list[int], list[int], int]:
    """One sample: its tokens, the step that set each, evaluations."""
    x, step_map, nfe, options = (
        [MASK if token < 0 else token for token in tokens],
        [0] * len(tokens),
        0,
        dict(parameters.options),
    )
    has_rule = any(options.get(name) is not None for name in ("threshold", "factor", "entropy_bound"))
    start, size, step = tokens.index(-1), parameters.block_size or len(tokens), 0
    for block in range(start, len(tokens), size):
        waiting = [i for i in range(block, min(block + size, len(tokens))) if x[i] == MASK]
        quotas = [0] * len(waiting) if has_rule else counts(parameters, len(waiting))
        for quota in quotas:
            if has_rule and not waiting:
                break
            step += 1
            if not (quota or has_rule):
                continue
            nfe += 1
            logits = network(torch.tensor([x]), torch.ones(1))[0]
            logits[:, [MASK, *FORBIDDEN]] = -torch.inf
            seen = {i: look(parameters, sample, step, i, logits[i]) for i in waiting}
            score = {i: seen[i][1] for i in waiting}
            if temperature := options.get("alg_temp", 0.0):
                u = {i: draw(parameters, sample, step, i, Purpose.POSITION) for i in waiting}
                score = {i: score[i] / temperature - torch.tensor(u[i]).log().neg().log().item() for i in waiting}
            order = sorted(waiting, key=lambda i: -score[i])
            count = how_many(options, [score[i] for i in order], [seen[i][2] for i in order], quota)
            for i in order[:count]:
                x[i], step_map[i] = seen[i][0], step
            waiting = [i for i in waiting if x[i] == MASK]
    return x, step_map, nfe


def request(seed: int) -> tuple[list[int], SamplingParameters]:
    """A random one."""
    chance = random.Random(seed)
    length = chance.randint(1, 32)
    tokens = [-1 if chance.random() < 0.7 else chance.randrange(MASK) for _ in range(length)]
    tokens[chance.randrange(length)] = -1
    sampler = chance.choice(["confidence", "margin", "entropy", "random"])
    options: dict[str, Any] = {"ranked_by": chance.choice(["largest", "drawn", "shaped"])}
    rules = {"threshold": 0.6, "factor": 1.0, "entropy_bound": 1.5}
    rule = chance.choice([None, None, *(["entropy_bound"] if sampler == "entropy" else rules)])
    if rule is not None:
        options[rule] = rules[rule] * chance.uniform(0.6, 1.4)
    else:
        options |= {"quota": chance.choice(["even", "schedule"]), "grid_eps": chance.choice([0.0, 1e-3])}
        options["alg_temp"] = 0.0 if sampler == "random" else chance.choice([0.0, 0.4])
    parameters = SamplingParameters(
        length,
        chance.randint(1, 2),
        chance.choice([None, 1, 3, 7, 40]),
        temperature=chance.choice([0.0, 0.7, 1.0, 1.3]),
        top_p=chance.choice([1.0, 1.0, 0.9]),
        top_k=chance.choice([0, 0, 5]),
        min_p=chance.choice([0.0, 0.0, 0.05]),
        block_size=chance.choice([None, 4, 9]),
        seed=seed,
        sampler=sampler,
        options=options,
    )
    return tokens, parameters


REQUESTS = [request(seed) for seed in range(COUNT)]


@pytest.fixture(scope="module", params=["margins", "ties"])
def network(request: pytest.FixtureRequest) -> Network:
    return networks()[request.param]


@pytest.fixture(scope="module")
def together(network: Network) -> dict[Any, list[Update]]:
    """Every update of all requests, which come to one batch one after the other, some of which is stepped at a time."""
    batch, updates = Batch(Rowwise(network), SCHEDULER, max_tokens=200), dict[Any, list[Update]]()
    for key, (tokens, parameters) in enumerate(REQUESTS):
        batch.add(key, tokens, parameters)
        for update in batch.step():
            updates.setdefault(update.key, []).append(update)
    while not batch.idle:
        for update in batch.step():
            updates.setdefault(update.key, []).append(update)
    return updates


@pytest.mark.parametrize("key", range(COUNT))
def test_it_is_what_the_plain_loop_does(key: int, network: Network, together: dict[Any, list[Update]]) -> None:
    tokens, parameters = REQUESTS[key]
    result = together[key][-1].result
    assert result is not None
    ours = list(zip(result.tokens, result.step_map, strict=True))
    theirs = [plainly(parameters, tokens, sample, network) for sample in range(parameters.num_samples)]
    assert ours == [(text, steps) for text, steps, _ in theirs]
    assert result.nfe == max(nfe for *_, nfe in theirs)


def test_fixed_positions_stay_and_no_mask_does(together: dict[Any, list[Update]]) -> None:
    for key, (tokens, _) in enumerate(REQUESTS):
        result: Any = together[key][-1].result
        for row in result.tokens:
            assert all(got == token for got, token in zip(row, tokens, strict=True) if token >= 0)
            assert not {MASK, *FORBIDDEN} & {got for got, token in zip(row, tokens, strict=True) if token < 0}


def test_no_more_is_needed_than_was_said(together: dict[Any, list[Update]]) -> None:
    """What is left never grows, is no less than what comes, and nothing in the end; by a quota it is that to the evaluation."""
    samplers = Samplers(SCHEDULER, FORBIDDEN)
    for key, (tokens, parameters) in enumerate(REQUESTS):
        result: Any = together[key][-1].result
        decoder: Any = samplers.of(parameters)
        bound, left = decoder.evaluations(tokens, parameters), [update.left for update in together[key]]
        assert result.nfe <= bound <= tokens.count(-1) and left == sorted(left, reverse=True) and left[-1] == 0
        has_rule = {"threshold", "factor", "entropy_bound"} & set(parameters.options)
        on_grid = not has_rule and parameters.num_inference_steps is not None
        assert has_rule or result.nfe == bound
        assert result.forwards_skipped == (decoder.steps(tokens, parameters) - bound if on_grid else 0)


def test_changes_lead_to_the_result(together: dict[Any, list[Update]]) -> None:
    for key, (tokens, parameters) in enumerate(REQUESTS):
        rows = [[MASK if token < 0 else token for token in tokens] for _ in range(parameters.num_samples)]
        for update in together[key]:
            for sample, position, token in update.changes:
                assert rows[sample][position] == MASK, "a mask is set once"
                rows[sample][position] = token
        result: Any = together[key][-1].result
        assert rows == result.tokens


def test_a_request_alone_is_what_it_is_among_others(network: Network, together: dict[Any, list[Update]]) -> None:
    for key in range(0, COUNT, 7):
        tokens, parameters = REQUESTS[key]
        batch, alone = Batch(Rowwise(network), SCHEDULER), list[Result]()
        batch.add(0, tokens, replace(parameters, num_samples=1))
        while not batch.idle:
            alone += [update.result for update in batch.step() if update.result]
        result: Any = together[key][-1].result
        assert (alone[0].tokens[0], alone[0].step_map[0]) == (result.tokens[0], result.step_map[0])
