"""ReMDM: its authors' probabilities, the plain loop, and laws that can be enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.laws import Law, chi_square_p, make_law
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample, sample_block
from token_diffusion.diffusion.schedules import ALPHA_SCHEDULES
from token_diffusion.diffusion.shaping import inverse_cdf, probabilities
from token_diffusion.engine.batch import Batch, Result
from token_diffusion.samplers import Samplers
from token_diffusion.samplers.decoders import remdm
from token_diffusion.samplers.decoders.remdm import RemaskingRows, rates
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.presets import PRESETS, with_preset
from token_diffusion.samplers.randomness import Purpose, uniform

P = 0.001
RECORDED = load_file(Path(__file__).parent / "recorded" / "remdm.safetensors")
STRENGTH = {"cap": 0.2, "rescale": 0.4, "loop": 0.1, "forward_backward": 1.0, "dfm": 3.0, "conf": 0.9}
WITH_A_LAW = [strategy for strategy in STRENGTH if strategy != "conf"]
T_ON, T_OFF, ALPHA_ON = 0.55, 0.05, 0.9


@dataclass(frozen=True)
class Textbook:
    """The paper's step on a grid of n steps, in plain numbers."""

    scheduler: TokenDiffusionScheduler
    strategy: str
    eta: float
    n: int

    def masked(self, t: float) -> float:
        """The probability of a mask at t."""

        def scheduled(t: float) -> float:
            return self.scheduler.process.masses(torch.tensor(t, dtype=torch.float64)).mask.item()

        if self.strategy != "loop":
            return scheduled(t)
        if t >= T_ON:
            return 1 - ALPHA_ON * (1 - scheduled((t - T_ON) / (1 - T_ON)))
        return (1 - ALPHA_ON) * scheduled(min(1.0, t / T_OFF))

    def steps(self) -> Iterator[tuple[float, float, float, float]]:
        """Of each step: its t, the probabilities that a mask stays and that a token is remasked, and that of a mask after it."""
        for i in range(self.n):
            t, s = 1 - i / self.n, 1 - (i + 1) / self.n
            now, then = self.masked(t), self.masked(s)
            alpha = max(1 - now, 1e-12)
            most, rise = min(1.0, then / alpha), (now - then) / alpha
            looping = T_OFF < round(t, 9) <= T_ON
            sigma = {
                "cap": min(self.eta, most),
                "rescale": self.eta * most,
                "conf": self.eta * most,
                "loop": min(self.eta, most) if looping else 0.0,
                "forward_backward": min(self.eta * rise, most),
                "dfm": min(self.eta * (alpha * now) ** 0.25 * rise, most),
            }[self.strategy]
            given_back = 0.0 if self.strategy == "conf" or i == 0 else sigma * alpha
            yield t, max((then - given_back) / now, 0.0), sigma, then


def chain(law: Law, textbook: Textbook) -> tuple[Tensor, list[Tensor]]:
    """Every state int64 [S, L], and the law float64 [S] after each step, of the textbook's steps with the exact network."""
    mask, length = law.mask_token_id, law.sequences.shape[1]
    states = torch.tensor(list(itertools.product(range(law.vocab_size), repeat=length)))
    theta = law.denoiser(textbook.scheduler)(states, torch.full((len(states),), 0.5)).softmax(-1)
    is_mask, every = (states == mask).unsqueeze(-1), torch.eye(law.vocab_size, dtype=torch.float64)
    probability, found = is_mask.all(1).squeeze(-1).double(), []
    for _, stay, sigma, _ in textbook.steps():
        each = torch.where(
            is_mask, (1 - stay) * theta + stay * every[mask], (1 - sigma) * every[states] + sigma * every[mask]
        )
        joint = each[:, 0]
        for position in range(1, length):
            joint = (joint.unsqueeze(-1) * each[:, position].unsqueeze(1)).flatten(1)
        probability = probability @ joint
        found.append(probability)
    return states, found


def plain_loop(
    denoiser: Any, textbook: Textbook, tokens: list[int], parameters: SamplingParameters
) -> tuple[Tensor, Tensor, int, int]:
    """Every step of every block asks the network.

    Returns:
        Tokens, step map, steps at which a sample needed the network, at most, and how often a token was remasked.
    """
    mask, count, length = textbook.scheduler.config.mask_token_id, parameters.num_samples, len(tokens)
    canvas = torch.tensor(tokens)
    position, sample = torch.arange(length).unsqueeze(0), torch.arange(count).unsqueeze(1)
    size, first = parameters.block_size or length, int((canvas < 0).nonzero()[0])
    block = torch.where(canvas < 0, (position - first) // size, -1)
    z = torch.where(canvas < 0, mask, canvas).repeat(count, 1)
    confidence, step_map = torch.zeros(z.shape, dtype=torch.float64), torch.zeros_like(z)
    step, remasked, evaluations = torch.zeros(1, 1, dtype=torch.int64), 0, torch.zeros(count, dtype=torch.int64)
    for number in range(int(block.max()) + 1):
        for t, stay, sigma, _ in textbook.steps():
            step = step + 1
            u, u_token = (
                uniform(torch.tensor([[parameters.seed]]), sample, step, position, purpose)
                for purpose in (Purpose.ROUTE, Purpose.TOKEN)
            )
            logits = denoiser(z, torch.full((count,), t)).flatten(0, 1)
            temperature, top_p = (
                torch.full((len(logits),), value) for value in (parameters.temperature, parameters.top_p)
            )
            theta = probabilities(logits, mask, temperature, top_p=top_p)
            drawn = inverse_cdf(theta, u_token.flatten())
            shows = (z != mask) & (block == number)
            remask = torch.full_like(confidence, sigma)
            if textbook.strategy == "conf":
                remask *= torch.where(shows, -confidence, -torch.inf).softmax(1).nan_to_num(0.0)
            leaves, back = (z == mask) & (block == number) & (u >= stay), shows & (u < remask)
            confidence = torch.where(leaves, theta.gather(1, drawn.unsqueeze(1)).view_as(confidence), confidence)
            z = torch.where(leaves, drawn.view_as(z), torch.where(back, mask, z))
            step_map = torch.where(leaves | back, step, step_map)
            remasked += int(back.sum())
            evaluations += leaves.any(1)
    return z, step_map, int(evaluations.max()), remasked


def asked(strategy: str, eta: float | None = None, **others: Any) -> dict[str, Any]:
    return {"sampler": "remdm", "remask": strategy, "eta": STRENGTH[strategy] if eta is None else eta, **others}


def rows_of(
    scheduler: TokenDiffusionScheduler, parameters: SamplingParameters, **fields: Tensor
) -> tuple[Any, RemaskingRows]:
    """The sampler of parameters, and rows of it with nothing fixed."""
    sampler: Any = Samplers(scheduler).of(parameters)
    rows: RemaskingRows = sampler.rows([-1] * parameters.seq_len, parameters)
    for name, value in fields.items():
        getattr(rows, name).copy_(value)
    return sampler, rows


def parameters_of(strategy: str, eta: float, length: int, count: int, n: int, seed: int = 0) -> SamplingParameters:
    return SamplingParameters(
        length, count, n, seed=seed, sampler="remdm", options={"remask": strategy, "eta": eta}, logprobs=True
    )


def recorded_network(z: Tensor) -> Tensor:
    """The logits [B, 5, 6] of the recorded network."""
    length = z.shape[1]
    i, j = torch.arange(length).unsqueeze(1), torch.arange(length).unsqueeze(0)
    return RECORDED["bias"].double() + RECORDED["weights"].double()[i, j, z.unsqueeze(1)].sum(2)


@pytest.mark.parametrize(
    ("strategy", "eta"),
    [("cap", 0.1), ("rescale", 0.3), ("conf", 1.0), ("loop", 0.05), ("forward_backward", 1.0), ("dfm", 10.0)],
)
def test_steps_have_the_probabilities_of_the_authors_code(strategy: str, eta: float) -> None:
    path, t, s, q = (RECORDED[f"{strategy}.{name}"] for name in ("z", "t", "s", "q"))
    mask, z, count = 2, path[:-1].long(), len(t)
    scheduler = TokenDiffusionScheduler(6, mask)
    sampler, rows = rows_of(scheduler, parameters_of(strategy, eta, 5, count, count))
    stay, sigma = rates(sampler.process, rows, t.unsqueeze(1), s.unsqueeze(1))
    if strategy == "conf":
        sigma = sigma * RECORDED["conf.confidence"][:-1].softmax(1).nan_to_num(0.0)
    theta = probabilities(recorded_network(z).flatten(0, 1), mask).view(count, 5, 6)
    is_mask, every = (z == mask).unsqueeze(-1), torch.eye(6, dtype=torch.float64)
    stay, sigma = stay.unsqueeze(-1), sigma.expand(count, 5).unsqueeze(-1)
    ours = torch.where(is_mask, (1 - stay) * theta + stay * every[mask], (1 - sigma) * every[z] + sigma * every[mask])
    theirs = q / q.sum(-1, keepdim=True)
    if strategy == "loop":  # where it does not remask, a token that shows is copied, whatever they draw
        copied = ((t > T_ON) | (t <= T_OFF)).view(-1, 1, 1) & ~is_mask
        theirs = torch.where(copied, every[z], theirs)
    if strategy == "forward_backward":  # in the last step their sigma is more than there is room for
        assert q[-1].min() < 0 or q[-1].max() > 1 or not torch.allclose(ours[-1], theirs[-1])
        ours, theirs = ours[:-1], theirs[:-1]
    assert int(((path[:-1] != mask) & (path[1:] == mask)).sum()) > 5, "a path with remaskings"
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_confidence_of_a_token_is_that_of_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws are chosen so that the sampler takes their path; it then holds their scores at every step."""
    mask, path, theirs = 2, RECORDED["conf.z"].long(), RECORDED["conf.confidence"]

    def fed(seed: Tensor, sample: Tensor, step: Tensor, position: Tensor, purpose: Purpose) -> Tensor:
        step, position = torch.broadcast_tensors(step, position)
        before, after = path[step - 1, position], path[step, position]
        if purpose == Purpose.ROUTE:
            moves = before != after
            return torch.where(moves == (before == mask), 1 - 1e-12, 1e-12).double()
        theta = probabilities(recorded_network(path[step - 1])[torch.arange(len(step)), position], mask)
        below = theta.cumsum(1).gather(1, after.unsqueeze(1)) - theta.gather(1, after.unsqueeze(1)) / 2
        return below.squeeze(1)

    monkeypatch.setattr(remdm, "uniform", fed)
    monkeypatch.setattr("token_diffusion.samplers.draws.uniform", fed)
    sampler, rows = rows_of(TokenDiffusionScheduler(6, mask), parameters_of("conf", 1.0, 5, 1, len(path) - 1))
    seen = 0
    while not bool(rows.finished):
        plan = sampler.plan(rows)
        if bool(rows.finished):
            break
        before = path[int(rows.step)]
        assert rows.tokens[0].equal(before), "what the network is shown"
        logits = recorded_network(before.unsqueeze(0))[0][plan.positions]
        sampler.commit(rows, plan, logits)
        after, scores = path[int(rows.step)], -theirs[int(rows.step)]
        assert rows.tokens[0].equal(after)
        torch.testing.assert_close(rows.confidence[0][after != mask], scores[after != mask], rtol=0, atol=1e-12)
        seen += 1
    assert seen > 5


@pytest.mark.parametrize("strategy", STRENGTH)
@pytest.mark.parametrize(
    ("tokens", "block_size", "n", "shaping"),
    [
        ([-1] * 4, 4, 20, {}),
        ([-1] * 4, 2, 24, {"temperature": 1.5}),
        ([-1, 1, 3, -1], 1, 12, {"top_p": 0.9}),
        ([3, -1, -1, 0], 3, 24, {"temperature": 0.5, "top_p": 0.95}),
    ],
)
def test_skipping_equals_the_plain_loop_token_for_token(
    strategy: str, tokens: list[int], block_size: int, n: int, shaping: dict[str, Any]
) -> None:
    law = make_law(4, 4, 2, seed=6, sharpness=2.0)
    scheduler = TokenDiffusionScheduler(4, 2, alpha_schedule=ALPHA_SCHEDULES[len(tokens) * n % 4])
    denoiser = law.denoiser(scheduler)
    output = sample_block(
        denoiser, scheduler, num_samples=30, seq_len=4, num_inference_steps=n, tokens=tokens, seed=3,
        block_size=block_size, **shaping, **asked(strategy),
    )  # fmt: skip
    parameters = SamplingParameters(4, 30, n, seed=3, block_size=block_size, **shaping)
    textbook = Textbook(scheduler, strategy, STRENGTH[strategy], n)
    expected, step_map, evaluations, remasked = plain_loop(denoiser, textbook, tokens, parameters)
    assert output.sequences.equal(expected)
    assert output.step_map.equal(step_map)
    assert output.nfe == evaluations and remasked > 20


def states_of(law: Law, scheduler: TokenDiffusionScheduler, parameters: SamplingParameters) -> Tensor:
    """What rows hold after each step, int64 [n, R, L], remaskings that were walked over included."""
    sampler, rows = rows_of(scheduler, parameters)
    denoiser, n = law.denoiser(scheduler), parameters.num_inference_steps or 0
    found, after = torch.zeros(n, *rows.tokens.shape, dtype=torch.int64), torch.arange(1, n + 1).view(-1, 1, 1)
    while True:
        before, done = rows.tokens.clone(), rows.step.view(1, -1, 1).clone()
        plan = sampler.plan(rows)
        again = (rows.remasked_at > 0) & (rows.remasked_at <= after)
        found = torch.where(after > done, torch.where(again, law.mask_token_id, before), found)
        if not plan.positions.numel():
            return found
        sampler.commit(rows, plan, denoiser(rows.tokens, plan.t).flatten(0, 1)[plan.positions])
        found = torch.where(after >= rows.step.view(1, -1, 1), rows.tokens, found)


@pytest.mark.parametrize("strategy", WITH_A_LAW)
@pytest.mark.parametrize("mask", [0, 1, 2])
def test_after_any_step_states_have_the_law_of_the_steps(strategy: str, mask: int) -> None:
    """On any grid: that of the Markov chain of the textbook's steps, masks and tokens jointly."""
    n, eta = 8, STRENGTH[strategy]
    law = make_law(3, 3, mask, seed=mask, sharpness=2.0)
    scheduler = TokenDiffusionScheduler(3, mask, alpha_schedule=ALPHA_SCHEDULES[(mask + len(strategy)) % 4])
    states, laws = chain(law, Textbook(scheduler, strategy, eta, n))
    found = states_of(law, scheduler, parameters_of(strategy, eta, 3, 2000, n, seed=mask))
    for at, expected in zip(found, laws, strict=True):
        observed = (at.unsqueeze(1) == states.unsqueeze(0)).all(-1).double().sum(0)
        assert chi_square_p(observed, expected) > P / n


@pytest.mark.parametrize("strategy", WITH_A_LAW)
@pytest.mark.parametrize("schedule", ALPHA_SCHEDULES)
def test_marginals_are_those_of_the_schedule_at_every_step(strategy: str, schedule: str) -> None:
    """Of masks exactly, and independently; of the tokens of two positions exactly, too: each is drawn given the other at most."""
    law = make_law(3, 2, 1, seed=5, sharpness=2.0)
    textbook = Textbook(TokenDiffusionScheduler(3, 1, alpha_schedule=schedule), strategy, STRENGTH[strategy], 12)
    states, laws = chain(law, textbook)
    single = torch.zeros(3, dtype=torch.float64).index_add_(0, law.sequences[:, 0], law.probability)
    masked = [step[3] for step in textbook.steps()]
    for m, probability in zip(masked, laws, strict=True):
        first = torch.zeros(3, dtype=torch.float64).index_add_(0, states[:, 0], probability)
        torch.testing.assert_close(first, (1 - m) * single + m * torch.eye(3)[1].double(), rtol=0, atol=1e-9)
        both = probability[(states == 1).all(1)].sum().item()
        assert both == pytest.approx(m * m, abs=1e-9)
    assert masked[-1] == 0 and sorted(masked, reverse=True) == masked


def distance(law: Law, strategy: str, eta: float, n: int) -> float:
    """Total variation between what an exact network's samples follow and the data's law."""
    scheduler = TokenDiffusionScheduler(law.vocab_size, law.mask_token_id)
    states, laws = chain(law, Textbook(scheduler, strategy, eta, n))
    at = (states.unsqueeze(0) == law.sequences.unsqueeze(1)).all(-1).long().argmax(1)
    return (laws[-1][at] - law.probability).abs().sum().item() / 2


def test_the_datas_law_is_reached_as_the_docstring_says() -> None:
    law = make_law(3, 3, 1, seed=3, sharpness=2.0)
    for strategy in ("forward_backward", "dfm"):
        coarse, fine = (distance(law, strategy, STRENGTH[strategy], n) for n in (64, 256))
        assert fine == pytest.approx(coarse / 4, rel=0.1)
    for strategy in ("cap", "rescale"):
        coarse, fine = (distance(law, strategy, STRENGTH[strategy], n) for n in (128, 512))
        assert 0.3 < fine / coarse < 0.75
    coarse, fine = (distance(law, "loop", STRENGTH["loop"], n) for n in (128, 512))
    assert fine == pytest.approx(coarse, rel=0.1)
    for strategy in ("cap", "rescale", "loop"):
        coarse, fine = (distance(law, strategy, 3 / n, n) for n in (128, 512))
        assert fine == pytest.approx(coarse / 4, rel=0.15)


def test_samples_reach_the_datas_law() -> None:
    law = make_law(3, 3, 2, seed=2)
    scheduler = TokenDiffusionScheduler(3, 2)
    for strategy in WITH_A_LAW:
        output = sample(
            law.denoiser(scheduler), scheduler, num_samples=1000, seq_len=3, num_inference_steps=60, seed=1,
            **asked(strategy, None if strategy in ("forward_backward", "dfm") else 0.02),
        )  # fmt: skip
        observed = (output.sequences.unsqueeze(1) == law.sequences.unsqueeze(0)).all(-1).double().sum(0)
        assert observed.sum() == 1000 and chi_square_p(observed, law.probability) > P


def test_conf_has_more_masks_than_the_schedule_by_as_many_as_it_makes() -> None:
    """M_s = M_t m_s / m_t + eta most P(any shows): exactly, as its shares sum to 1."""
    law, n, eta, count = make_law(3, 3, 0, seed=4), 10, 0.9, 3000
    scheduler = TokenDiffusionScheduler(3, 0)
    masks, shows = 3.0, 0.0
    states = states_of(law, scheduler, parameters_of("conf", eta, 3, count, n))
    for k, (_, stay, sigma, then) in enumerate(Textbook(scheduler, "conf", eta, n).steps()):
        found, expected = (states[k] == 0).double().sum(1), masks * stay + sigma * shows
        assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / count**0.5 + 1e-12)
        if 2 < k < n - 1:
            assert expected > 3 * then * 1.1
        masks, shows = found.mean().item(), (found < 3).double().mean().item()


def test_changes_replay_and_say_masks_again() -> None:
    """As every sampler's; among them masks, where a token went and none has come in the same tick."""
    scheduler = TokenDiffusionScheduler(9, 4)
    batch = Batch(lambda z, t: torch.zeros(*z.shape, 9), scheduler)
    tokens = [1, -1, -1, -1, 2, -1, -1, -1, -1]
    parameters = SamplingParameters(
        9, 4, 40, sampler="remdm", options={"remask": "cap", "eta": 0.2}, logprobs=True, block_size=4
    )
    state = torch.tensor(batch.add(0, tokens, parameters))
    again, result = 0, None
    while result is None:
        (update,) = batch.step()
        places = {(sample, position) for sample, position, _ in update.changes}
        assert len(places) == len(update.changes), "one change a position"
        for (row, position, token), logprob in zip(update.changes, update.logprobs or [], strict=True):
            again += int(token == 4)
            state[row, position] = token
            assert (token == 4) == (logprob is None)
        result = update.result
    assert isinstance(result, Result)
    assert state.tolist() == result.tokens and again > 10
    assert result.nfe + result.forwards_skipped == 80 and result.forwards_skipped > 0
    fixed = torch.tensor(tokens) >= 0
    assert bool((state[:, fixed] == torch.tensor([1, 2])).all()) and not bool((state == 4).any())
    step_map = torch.tensor(result.step_map)
    assert bool((step_map[:, fixed] == 0).all())
    assert bool(((step_map[:, 1:4] > 0) & (step_map[:, 1:4] <= 40)).all()) and bool((step_map[:, 5:] > 40).all())


def test_alone_and_among_others() -> None:
    """Rows of all strategies, on grids and in blocks of their own, in one lane."""
    law = make_law(4, 4, 3, seed=1)
    scheduler = TokenDiffusionScheduler(4, 3)
    requests = [
        SamplingParameters(
            4, 3, 10 + 7 * number, seed=number, sampler="remdm", block_size=1 + number % 4,
            options={"remask": strategy, "eta": eta},
        )
        for number, (strategy, eta) in enumerate(STRENGTH.items())
    ]  # fmt: skip

    def finish(numbers: list[int]) -> dict[Any, Result]:
        batch, found = Batch(law.denoiser(scheduler), scheduler), {}
        for number in numbers:
            batch.add(number, [-1] * 4, requests[number])
        while not batch.idle:
            for update in batch.sweep():
                if update.result is not None:
                    found[update.key] = update.result
        return found

    together = finish(list(range(len(requests))))
    for number in range(len(requests)):
        assert finish([number])[number] == together[number]


def test_loop_tells_the_network_the_time_of_its_masks() -> None:
    """At t in (t_off, t_on] always that at which a tenth of the tokens is masked."""
    times: list[float] = []

    def network(z: Tensor, t: Tensor) -> Tensor:
        times.extend(t.tolist())
        return torch.zeros(*z.shape, 5)

    sample(network, TokenDiffusionScheduler(5, 0), seq_len=30, num_inference_steps=20, **asked("loop"))
    assert times[0] == 1 and sorted(times, reverse=True) == times
    assert times.count(times[-2]) >= 9 and times[-2] == pytest.approx(0.1, abs=1e-6)


def test_the_greedy_tail_takes_the_most_probable_tokens() -> None:
    """On a grid of one step all of them; on a longer one those that are masked before the last step."""
    logits = torch.arange(7.0).expand(20, 7)
    arguments: dict[str, Any] = {"seq_len": 20, "num_samples": 3, **asked("cap", greedy_tail=True)}
    scheduler = TokenDiffusionScheduler(7, 0)
    only = sample(lambda z, t: logits.expand(len(z), 20, 7), scheduler, num_inference_steps=1, **arguments)
    assert bool((only.sequences == 6).all())
    output = sample(lambda z, t: logits.expand(len(z), 20, 7) / 5, scheduler, num_inference_steps=6, **arguments)
    last = output.step_map == 6
    assert bool((output.sequences[last] == 6).all()) and last.any()
    assert not bool((output.sequences[~last] == 6).all())


def test_the_preset_is_the_authors_script() -> None:
    """And another strategy in its place has its own strength."""

    def first(**given: Any) -> list[float]:
        fields = with_preset("remdm", given)
        options = {name: fields[name] for name in fields if name in ("remask", "eta")}
        parameters = SamplingParameters(4, 1, 1024, sampler=fields["sampler"], options=options)
        _, rows = rows_of(TokenDiffusionScheduler(5, 0), parameters)
        return [float(getattr(rows, name)) for name in ("strategy", "eta", "t_on", "t_off", "alpha_on")]

    assert first()[1:] == [0.02, T_ON, T_OFF, ALPHA_ON]
    strategies = list(remdm.ETA)
    assert first()[0] == strategies.index("loop") and PRESETS["remdm"]["top_p"] == 0.9
    assert first(remask="cap")[:2] == [strategies.index("cap"), 0.008]
    assert first(remask="rescale", eta=0.5)[:2] == [strategies.index("rescale"), 0.5]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"remask": "cup"}, "remask must be cap, rescale, loop, forward_backward, dfm or conf, got 'cup'"),
        ({"eta": 1.5}, r"eta must be in \[0, 1\] for cap, got 1.5"),
        ({"remask": "dfm", "eta": -1}, r"eta must be in \[0, 1000\], got -1"),
        ({"t_on": 0.5}, "t_on must be absent for cap, as it is of loop alone, got 0.5"),
        ({"remask": "loop", "t_on": 0.04}, "t_off must be below t_on = 0.04, got 0.05"),
        ({"remask": "loop", "alpha_on": 1}, "alpha_on must be below 1, got 1"),
        ({"num_inference_steps": None}, "num_inference_steps must be an integer for the sampler remdm"),
        ({"threshold": 0.9}, "threshold must be absent, as the sampler remdm has no such option"),
    ],
)
def test_what_it_cannot_do_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        sample(lambda z, t: z, TokenDiffusionScheduler(5, 0), seq_len=3, sampler="remdm", **given)


def test_other_processes_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"sampler must be .* for the uniform process, got 'remdm'"):
        sample(lambda z, t: z, TokenDiffusionScheduler(5, 0, forward_process="uniform"), sampler="remdm")
