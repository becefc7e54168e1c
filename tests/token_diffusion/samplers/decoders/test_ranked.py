"""Decoding by rank: its laws where it has any, what it asks, tells and refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws import chi_square_p, counts, make_law
from tests.tiny import tiny_model
from tests.token_diffusion.samplers.decoders.recordings import MASK, VOCAB_SIZE, recordings
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample, sample_block
from token_diffusion.engine.batch import Batch
from token_diffusion.engine.updates import Update
from token_diffusion.networks import denoiser as denoisers
from token_diffusion.pipelines.requests import Requests
from token_diffusion.samplers import Samplers
from token_diffusion.samplers.decoders import ranked
from token_diffusion.samplers.draws import draw
from token_diffusion.samplers.parameters import SamplingParameters

P = 0.001
SCHEDULER = TokenDiffusionScheduler(VOCAB_SIZE, MASK)


def follow(
    parameters: SamplingParameters, tokens: list[int], network: Any, scheduler: Any = SCHEDULER
) -> list[Update]:
    batch, updates = Batch(network, scheduler), []
    batch.add(0, tokens, parameters)
    while not batch.idle:
        updates += batch.step()
    return updates


@pytest.mark.parametrize("quota", ["even", "schedule"])
def test_steps_that_set_nothing_are_passed_over(quota: str) -> None:
    network = recordings("llada")["uneven"].network
    tokens = [3, -1, -1, 7, -1, -1, -1]
    output = sample(
        network, SCHEDULER, seq_len=7, tokens=tokens, num_inference_steps=1000, sampler="margin", quota=quota
    )
    events = (
        4 if quota == "schedule" else 5
    )  # of Dream's, the last sets two: half of two masks is less than one in float32
    assert output.nfe == events and output.forwards_skipped == 1000 - events
    assert output.step_map[0, [0, 3]].tolist() == [0, 0] and output.step_map.max() == (
        1000 if quota == "schedule" else 5
    )
    none = sample(
        network, SCHEDULER, seq_len=7, tokens=tokens, num_inference_steps=None, sampler="margin", quota=quota
    )
    assert none.step_map[0].sort().values.tolist() == [0, 0, 1, 2, 3, 4, 5] and none.forwards_skipped == 0


class Clock:
    """A network of flat logits that keeps the times that it is told, and how many positions it is asked for."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.asked: list[int] = []

    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        self.times += t.tolist()
        self.asked.append(len(positions))
        return torch.zeros(len(positions), VOCAB_SIZE)


@pytest.mark.parametrize(
    ("options", "steps", "times"),
    [
        ({}, 4, [1.0, 0.75, 0.5, 0.25]),
        ({}, 2, [1.0, 0.5]),
        ({}, 128, [1.0, 0.75, 0.5, 0.25]),
        ({"quota": "schedule", "grid_eps": 0.2}, 2, [1.0, 0.75]),
        ({"threshold": 0.9}, 2, [1.0, 0.75, 0.5, 0.25]),
        ({}, None, [1.0, 0.75, 0.5, 0.25]),
    ],
)
def test_the_time_told_is_that_at_which_as_many_masks_are_expected(
    options: dict[str, Any], steps: Any, times: list[float]
) -> None:
    clock, scheduler = Clock(), TokenDiffusionScheduler(VOCAB_SIZE, MASK, alpha_schedule="linear")
    sample_block(clock, scheduler, seq_len=8, block_size=4, num_inference_steps=steps, sampler="confidence", **options)
    assert clock.times == pytest.approx(times * 2)


def test_time_falls_and_ends_at_nothing_left() -> None:
    for options in ({"threshold": 0.9}, {"quota": "schedule"}, {}):
        updates = follow(SamplingParameters(9, 2, 5, sampler="confidence", options=options), [-1] * 9, Clock())
        times = [update.t for update in updates]
        assert times == sorted(times, reverse=True) and times[-1] == 0 and 0 < times[0] < 1
        assert updates[-1].step == (9 if "threshold" in options else 5)


def test_random_asks_the_network_for_what_it_sets_alone() -> None:
    clock = Clock()
    sample(clock, SCHEDULER, seq_len=9, num_inference_steps=4, sampler="random")
    assert clock.asked == [3, 2, 2, 2]
    clock = Clock()
    sample(clock, SCHEDULER, seq_len=9, num_inference_steps=4, sampler="random", entropy_bound=1.0)
    assert clock.asked == [9, 8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("mask", [0, 1, 3])
@pytest.mark.parametrize("steps", [None, 3, 50])
def test_random_positions_one_by_one_have_the_models_law(mask: int, steps: int | None) -> None:
    law = make_law(4, 3, mask)
    scheduler = TokenDiffusionScheduler(4, mask)
    output = sample(
        law.denoiser(scheduler),
        scheduler,
        num_samples=1500,
        seq_len=3,
        num_inference_steps=steps,
        seed=mask,
        sampler="random",
    )
    assert chi_square_p(counts(law, output.sequences), law.probability) > P
    assert output.nfe == 3


@pytest.mark.parametrize("mask", [0, 2, 3])
@pytest.mark.parametrize("ranked_by", ["largest", "shaped"])
def test_what_is_set_first_is_drawn_from_its_own_distribution(mask: int, ranked_by: str) -> None:
    """The position is that which the network is surest of; its token has its marginal law, sharpened by the temperature."""
    law, count = make_law(4, 3, mask, seed=2), 1500
    scheduler = TokenDiffusionScheduler(4, mask)
    theta = law.denoiser(scheduler)(torch.full((1, 3), mask), torch.ones(1))[0].softmax(-1)
    sharp = theta.pow(2) / theta.pow(2).sum(-1, keepdim=True)
    entropy = torch.special.entr(theta if ranked_by == "largest" else sharp).sum(-1)
    output = sample(
        law.denoiser(scheduler), scheduler, num_samples=count, seq_len=3, num_inference_steps=3, seed=3,
        sampler="entropy", temperature=0.5, ranked_by=ranked_by,
    )  # fmt: skip
    first = int(entropy.argmin())
    assert (output.step_map[:, first] == 1).all()
    observed = torch.bincount(output.sequences[:, first], minlength=4).double()
    assert chi_square_p(observed, sharp[first]) > P


def test_the_position_is_drawn_with_the_tokens_confidence() -> None:
    """LLaDA's: of two positions that are alike, that is first for which a probable token was drawn."""
    p, count = torch.tensor([0.7, 0.2, 0.1]), 2000
    scheduler = TokenDiffusionScheduler(4, 3)

    def network(tokens: Tensor, t: Tensor) -> Tensor:
        return torch.cat([p.log(), torch.zeros(1)]).expand(*tokens.shape, 4)

    output = sample(
        network,
        scheduler,
        num_samples=count,
        seq_len=2,
        num_inference_steps=2,
        sampler="confidence",
        ranked_by="drawn",
    )
    first = output.sequences.gather(1, output.step_map.argmin(1, keepdim=True)).flatten()
    observed = torch.bincount(first, minlength=3).double()
    # the more probable of two draws; the other position is drawn again
    expected = torch.tensor([1 - 0.3**2, 0.3**2 - 0.1**2, 0.1**2])
    assert chi_square_p(observed, expected.double()) > P
    assert chi_square_p(observed, p.double()) < 1e-6, "the test can tell"


def test_logprobs_are_the_networks_own() -> None:
    network = recordings("llada")["uneven"].network
    for options in ({}, {"ranked_by": "shaped"}, {"threshold": 0.8}):
        for temperature in (0.0, 0.7):
            output = sample(
                network, SCHEDULER, seq_len=20, num_inference_steps=6, sampler="confidence",
                temperature=temperature, top_k=6, logprobs=True, **options,
            )  # fmt: skip
            assert output.logprobs is not None
            for step in range(1, int(output.step_map.max()) + 1):
                shown = torch.where(output.step_map < step, output.sequences, MASK)
                own = (
                    network(shown, torch.ones(1))
                    .log_softmax(-1)
                    .gather(-1, output.sequences.unsqueeze(-1))
                    .squeeze(-1)
                )
                here = output.step_map == step
                torch.testing.assert_close(output.logprobs[here], own[here].double(), rtol=1e-5, atol=1e-6)


def test_without_a_distribution_a_row_fails_and_no_other() -> None:
    good = recordings("llada")["uneven"].network

    def network(tokens: Tensor, t: Tensor) -> Tensor:
        logits = good(tokens, t)
        logits[tokens[:, 0] == 5, 3] = torch.nan
        return logits

    for sampler in ("confidence", "margin", "entropy", "random"):
        parameters = SamplingParameters(8, 1, 2, sampler=sampler)
        alone = follow(parameters, [4] + [-1] * 7, good)[-1].result
        batch = Batch(network, SCHEDULER)
        batch.add("bad", [5] + [-1] * 7, parameters)
        batch.add("good", [4] + [-1] * 7, parameters)
        updates = []
        while not batch.idle:
            updates += batch.step()
        assert any(update.key == "bad" and update.error for update in updates)
        (result,) = (update.result for update in updates if update.result)
        assert result == alone


@pytest.mark.parametrize(
    ("sampler", "options", "name"),
    [
        ("confidence", {"threshold": 0.9, "factor": 1.0}, "factor must be absent beside threshold"),
        ("margin", {"factor": 1.0, "entropy_bound": 1.0}, "entropy_bound must be absent beside factor"),
        ("entropy", {"threshold": 0.9}, "threshold must be absent for the sampler entropy"),
        ("entropy", {"factor": 0.9}, "factor must be absent for the sampler entropy"),
        ("confidence", {"threshold": 0.9, "alg_temp": 0.1}, "alg_temp must be 0 beside threshold"),
        ("random", {"alg_temp": 0.1}, "alg_temp must be 0 for the sampler random"),
        ("confidence", {"threshold": 0.0}, "threshold must be"),
        ("confidence", {"threshold": 1.1}, "threshold must be"),
        ("confidence", {"factor": 0}, "factor must be > 0"),
        ("entropy", {"entropy_bound": -1e-9}, "entropy_bound must be >= 0"),
        ("confidence", {"quota": "cosine"}, "quota must be even or schedule"),
        ("confidence", {"ranked_by": None}, "ranked_by must be largest, drawn or shaped"),
        ("confidence", {"grid_eps": 1.5}, "grid_eps must be in"),
        ("confidence", {"eta": 0.1}, "eta must be absent"),
    ],
)
def test_what_cannot_be_asked_is_named(sampler: str, options: dict[str, Any], name: str) -> None:
    with pytest.raises(ParameterError, match=name):
        Samplers(SCHEDULER).of(SamplingParameters(8, sampler=sampler, options=options))


def test_other_processes_have_no_masks_to_rank() -> None:
    uniform = TokenDiffusionScheduler(VOCAB_SIZE, MASK, forward_process="uniform")
    with pytest.raises(ParameterError, match=r"sampler must be .* for the uniform process"):
        Samplers(uniform).of(SamplingParameters(8, sampler="confidence"))


def test_greedy_rows_draw_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything shaped for masks that stay: that is what ranking by shape costs."""
    drawn: list[int] = []

    def counting(rows: Any, plan: Any, *others: Any) -> Any:
        drawn.append(len(plan.positions))
        return draw(rows, plan, *others)

    monkeypatch.setattr(ranked, "draw", counting)
    network = recordings("llada")["uneven"].network
    for temperature, ranked_by, expected in (
        (0.0, "largest", []),
        (0.0, "drawn", []),
        (1.0, "largest", [4, 4]),
        (1.0, "drawn", []),
    ):
        drawn.clear()
        sample(
            network,
            SCHEDULER,
            seq_len=8,
            num_inference_steps=2,
            sampler="confidence",
            temperature=temperature,
            ranked_by=ranked_by,
        )
        assert drawn == expected


@pytest.mark.parametrize(
    ("sampler", "ranked_by", "temperature"),
    [
        ("confidence", "largest", 0.9),
        ("margin", "shaped", 0.5),
        ("confidence", "drawn", 1.0),
        ("random", "largest", 1.0),
    ],
)
def test_logits_in_pieces_are_ranked_and_drawn_as_at_once(
    sampler: str, ranked_by: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, scheduler, found = tiny_model("bert", 50), TokenDiffusionScheduler(50, 4), []
    for size in (10**6, 5):
        monkeypatch.setattr(denoisers, "PIECE_BYTES", size * 50 * 4)
        output = sample(
            model, scheduler, num_samples=2, seq_len=24, num_inference_steps=3, seed=7, sampler=sampler,
            temperature=temperature, ranked_by=ranked_by,
        )  # fmt: skip
        found.append(output.sequences)
    assert found[0].equal(found[1])


def test_a_callback_is_told_the_grids_time_or_the_time_reached() -> None:
    tokens = [3, -1, -1, -1, -1]
    for options, expected in (({}, [1.0, 0.5]), ({"threshold": 0.9}, [0.75, 0.5, 0.25, 0.0])):
        scheduler, parameters = (
            TokenDiffusionScheduler(VOCAB_SIZE, MASK, alpha_schedule="linear"),
            SamplingParameters(5, 1, 2, sampler="confidence", options=options),
        )
        requests, times = Requests(Clock(), scheduler, [(tokens, parameters)]), []
        while not requests.finished:
            requests.step()
            times.append(requests.t)
        assert times == pytest.approx(expected) and requests.done == requests.total


@pytest.mark.parametrize("ranked_by", ["largest", "drawn", "shaped"])
def test_logits_of_half_precision_are_ranked_in_whole(ranked_by: str) -> None:
    network, found = recordings("llada")["uneven"].network, []
    for dtype in (torch.bfloat16, torch.float32):

        def rounded(tokens: Tensor, t: Tensor, dtype: torch.dtype = dtype) -> Tensor:
            return network(tokens, t).bfloat16().to(dtype)

        output = sample(
            rounded, SCHEDULER, seq_len=24, num_samples=3, num_inference_steps=6, sampler="confidence", temperature=0.8,
            ranked_by=ranked_by,
        )  # fmt: skip
        found.append((output.sequences, output.step_map))
    assert found[0][0].equal(found[1][0]) and found[0][1].equal(found[1][1])
