"""Samplers against enumerable laws: the exact denoiser's samples, counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws import Denoiser, Law, chi_square_p, counts, make_law
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample, sample_block, sample_hybrid
from token_diffusion.diffusion.schedules import ALPHA_SCHEDULES
from token_diffusion.diffusion.shaping import inverse_cdf, probabilities
from token_diffusion.engine.batch import Batch
from token_diffusion.samplers import Samplers
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.randomness import uniform

P = 0.001


def textbook(denoiser: Denoiser, scheduler: TokenDiffusionScheduler, count: int, length: int, n: int) -> Tensor:
    """MDLM's ancestral loop as printed: at each grid step every mask leaves with (alpha_s - alpha_t) / (1 - alpha_t)."""
    generator, process = torch.Generator().manual_seed(99), scheduler.process
    z = torch.full((count, length), scheduler.config.mask_token_id)
    for k in range(n):
        t, s = (torch.tensor(1 - i / n, dtype=torch.float64) for i in (k, k + 1))
        theta = denoiser(z, t.expand(count)).softmax(-1).flatten(0, 1)
        drawn = inverse_cdf(theta, torch.rand(count * length, dtype=torch.float64, generator=generator)).view_as(z)
        leave = 1 - process.masses(s).mask / process.masses(t).mask
        leaves = torch.rand(z.shape, dtype=torch.float64, generator=generator) < leave
        z = torch.where((z == scheduler.config.mask_token_id) & leaves, drawn, z)
    return z


@pytest.mark.parametrize("schedule", ALPHA_SCHEDULES)
@pytest.mark.parametrize("mask", [0, 1, 3])
def test_first_hitting_is_exact(schedule: str, mask: int) -> None:
    law = make_law(4, 3, mask)
    scheduler = TokenDiffusionScheduler(4, mask, alpha_schedule=schedule)
    output = sample(
        law.denoiser(scheduler), scheduler, num_samples=4000, seq_len=3, num_inference_steps=None, seed=mask
    )
    assert chi_square_p(counts(law, output.sequences), law.probability) > P
    assert output.nfe == 3 and output.forwards_skipped == 0


@pytest.mark.parametrize("schedule", ALPHA_SCHEDULES)
def test_many_steps_are_exact_and_skip_almost_all(schedule: str) -> None:
    law = make_law(4, 3, 3, seed=1)
    scheduler = TokenDiffusionScheduler(4, 3, alpha_schedule=schedule)
    output = sample(law.denoiser(scheduler), scheduler, num_samples=4000, seq_len=3, num_inference_steps=10_000)
    assert chi_square_p(counts(law, output.sequences), law.probability) > P
    assert output.nfe == 3 and output.forwards_skipped == 9_997


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("schedule", ALPHA_SCHEDULES)
def test_event_driven_and_step_by_step_agree_in_law(schedule: str, n: int) -> None:
    """On few steps neither has the data's law (positions unmasked together are independent): but both have the same."""
    law, count = make_law(3, 3, 2, seed=4, sharpness=2.0), 6000
    scheduler = TokenDiffusionScheduler(3, 2, alpha_schedule=schedule)
    denoiser = law.denoiser(scheduler)
    ours = counts(law, sample(denoiser, scheduler, num_samples=count, seq_len=3, num_inference_steps=n).sequences)
    theirs = counts(law, textbook(denoiser, scheduler, count, 3, n))
    difference = ((ours - theirs) ** 2 / (ours + theirs).clamp(min=1)).sum().item()
    assert difference < 26.1  # chi-square of two equal samples, 8 cells, p = 0.001 at 8 degrees of freedom
    if n == 1:  # the test can tell: one step is not the data's law
        assert chi_square_p(ours, law.probability) < 1e-6


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
@pytest.mark.parametrize("mask", [0, 1, 2])
def test_uniform_and_hybrid_reach_the_law_with_many_steps(process: str, mask: int) -> None:
    law = make_law(3, 2, mask, seed=mask)
    scheduler = TokenDiffusionScheduler(3, mask, forward_process=process)
    sampler = sample_hybrid if process == "hybrid" else sample
    output = sampler(
        law.denoiser(scheduler), scheduler, num_samples=1000, seq_len=2, num_inference_steps=100, seed=mask
    )
    assert chi_square_p(counts(law, output.sequences), law.probability) > P
    assert output.nfe < 60  # thinning passes many steps over


def first_order(law: Law) -> Tensor:
    """The law of one step: every position from its marginal, independently."""
    product = torch.ones(len(law.sequences), dtype=torch.float64)
    for i in range(law.sequences.shape[1]):
        marginal = torch.zeros(law.vocab_size, dtype=torch.float64).index_add_(0, law.sequences[:, i], law.probability)
        product *= marginal[law.sequences[:, i]]
    return product


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
def test_one_step_draws_every_position_from_its_marginal(process: str) -> None:
    law = make_law(3, 2, 1, seed=8)
    scheduler = TokenDiffusionScheduler(3, 1, forward_process=process, alpha_schedule="linear")
    sampler = sample_hybrid if process == "hybrid" else sample
    output = sampler(law.denoiser(scheduler), scheduler, num_samples=4000, seq_len=2, num_inference_steps=1)
    assert output.nfe == 1
    assert chi_square_p(counts(law, output.sequences), first_order(law)) > P


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
@pytest.mark.parametrize(
    ("tokens", "block_size", "steps"),
    [([-1] * 4, 4, 60), ([-1] * 4, 2, 120), ([-1, 1, 3, -1], 1, 120), ([3, -1, 0, -1], 3, 60)],
)
def test_thinning_equals_the_plain_loop_token_for_token(
    process: str, tokens: list[int], block_size: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bound at 1 every position is offered at every step: no skipping, no thinning, the same draws.

    steps: of the blocks that have open positions at all; there are none to look at in the others.
    """
    law = make_law(4, 4, 2, seed=6)
    scheduler = TokenDiffusionScheduler(4, 2, forward_process=process)

    def run() -> tuple[Tensor, int]:
        output = sample_block(
            law.denoiser(scheduler), scheduler, num_samples=60, seq_len=4, num_inference_steps=60, tokens=tokens,
            block_size=block_size,
        )  # fmt: skip
        return output.sequences, output.nfe

    thinned, nfe = run()
    monkeypatch.setattr(
        "token_diffusion.samplers.decoders.thinning.leave_bound", lambda process, z, now, then: torch.ones(z.shape)
    )
    plain, all_steps = run()
    assert thinned.equal(plain)
    assert all_steps == steps > nfe


@pytest.mark.parametrize(("num_open", "block_size"), [(1, 512), (512, 1), (3, 512)])
def test_a_search_looks_at_the_open_positions_of_a_block_alone(
    num_open: int, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of steps to the next event, in a long sequence: what is drawn is for the few that could move."""
    drawn = 0

    def counting(*arguments: Any) -> Tensor:
        nonlocal drawn
        values = uniform(*arguments)
        drawn += values.numel()
        return values

    monkeypatch.setattr("token_diffusion.samplers.decoders.thinning.uniform", counting)
    batch = Batch(lambda z, t: torch.zeros(*z.shape, 9), TokenDiffusionScheduler(9, 0, forward_process="hybrid"))
    batch.add(0, [1] * (512 - num_open) + [-1] * num_open, SamplingParameters(512, 1, 10_000, block_size=block_size))
    for _ in range(4):
        drawn = 0
        batch.step()
        assert drawn < 4 * 10_000 * min(num_open, block_size) + 512


@pytest.mark.parametrize("n", [None, 500])
def test_blocks_prompts_and_infill_follow_the_conditional_law(n: int | None) -> None:
    law = make_law(3, 4, 0, seed=3)
    scheduler = TokenDiffusionScheduler(3, 0)
    denoiser = law.denoiser(scheduler)
    for tokens in ([-1, -1, -1, -1], [2, -1, -1, -1], [-1, 1, -1, 2]):
        for block_size in (None, 1, 2, 3):
            arguments = {"num_samples": 1500, "seq_len": 4, "num_inference_steps": n, "tokens": tokens, "seed": 1}
            if block_size is None:
                output = sample(denoiser, scheduler, **arguments)  # type: ignore[arg-type]
            else:
                output = sample_block(denoiser, scheduler, block_size=block_size, **arguments)  # type: ignore[arg-type]
            assert chi_square_p(counts(law, output.sequences), law.given(tokens)) > P
            assert output.nfe == sum(token < 0 for token in tokens)


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_blocks_of_uniform_and_hybrid_end_clean_and_keep_what_is_fixed(process: str) -> None:
    scheduler = TokenDiffusionScheduler(6, 5, forward_process=process)
    tokens = [1, -1, -1, 2, -1, -1, -1]
    denoiser = lambda z, t: torch.zeros(*z.shape, 6)  # noqa: E731
    output = sample_block(
        denoiser, scheduler, num_samples=300, seq_len=7, block_size=2, num_inference_steps=9, tokens=tokens
    )
    assert not bool((output.sequences == 5).any())
    assert bool((output.sequences[:, 0] == 1).all()) and bool((output.sequences[:, 3] == 2).all())
    assert bool((output.step_map[:, [0, 3]] == 0).all())


def test_uniform_blocks_do_not_see_the_noise_to_come() -> None:
    scheduler = TokenDiffusionScheduler(6, 5, forward_process="uniform")
    parameters = SamplingParameters(5, 1, 4, block_size=2)
    sampler = Samplers(scheduler).of(parameters)
    rows = sampler.rows([3, -1, -1, -1, -1], parameters)
    assert sampler.visible(rows).tolist() == [[True, True, True, False, False]]


def test_unmasking_spreads_events_over_the_grid_as_the_schedule_says() -> None:
    scheduler = TokenDiffusionScheduler(3, 2, alpha_schedule="cosine")
    parameters = SamplingParameters(20_000, 1, 5)
    rows = Samplers(scheduler).of(parameters).rows([-1] * 20_000, parameters)
    observed = torch.bincount(rows.due_step[0], minlength=6)[1:].double()
    grid = torch.linspace(1, 0, 6, dtype=torch.float64)
    masked = scheduler.process.masses(grid).mask
    assert chi_square_p(observed, masked[:-1] - masked[1:]) > P


def test_a_continuous_clock_is_refused_where_it_has_no_last_event() -> None:
    scheduler = TokenDiffusionScheduler(6, 5, forward_process="uniform")
    with pytest.raises(ParameterError, match="num_inference_steps must be an integer for the uniform process"):
        Batch(lambda z, t: z, scheduler).add(0, [-1], SamplingParameters(1, 1, None))


def test_the_wrong_process_is_refused() -> None:
    with pytest.raises(ParameterError, match="forward_process must be hybrid for sample_hybrid, got 'absorbing'"):
        sample_hybrid(lambda z, t: z, TokenDiffusionScheduler(6, 5))
    with pytest.raises(ParameterError, match="forward_process must be absorbing or uniform for sample, got 'hybrid'"):
        sample(lambda z, t: z, TokenDiffusionScheduler(6, 5, forward_process="hybrid"))


@pytest.mark.slow
@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_thousands_of_steps_keep_the_law(process: str) -> None:
    """Where stay-or-leave drawn jointly in float32 loses the rare routes and lowers the temperature."""
    law = make_law(3, 2, 1, seed=1)
    scheduler = TokenDiffusionScheduler(3, 1, forward_process=process)
    sampler = sample_hybrid if process == "hybrid" else sample
    output = sampler(law.denoiser(scheduler), scheduler, num_samples=800, seq_len=2, num_inference_steps=4000)
    assert chi_square_p(counts(law, output.sequences), law.probability) > P
    assert output.nfe + output.forwards_skipped == 4000 and output.nfe < 100


class Network(torch.nn.Module):
    """A network with a time input and an attribute `config` that is not one of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"width": 8}
        self.time, self.dropout = torch.nn.Linear(1, 7), torch.nn.Dropout()

    def forward(self, tokens: Tensor, t: Tensor) -> Tensor:
        return self.dropout(self.time(t[:, None]))[:, None].expand(*tokens.shape, 7)


@pytest.mark.parametrize("process", ["absorbing", "uniform"])
def test_a_network_samples_as_it_trains_and_stays_in_its_mode(process: str) -> None:
    network = Network().train()
    output = sample(network, TokenDiffusionScheduler(7, 6, forward_process=process), num_samples=3, seq_len=5)
    assert network.training and not bool((output.sequences == 6).any())


def test_a_traced_function_is_a_denoiser() -> None:
    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(Network().eval(), (torch.zeros(1, 5, dtype=torch.int64), torch.ones(1)))
    assert sample(traced, TokenDiffusionScheduler(7, 6), seq_len=5, num_inference_steps=4).sequences.shape == (1, 5)


def test_a_mask_among_the_fixed_tokens_is_refused() -> None:
    with pytest.raises(
        ParameterError, match="tokens must hold -1 where the sampler fills in, not the mask token, got 6"
    ):
        sample(Network(), TokenDiffusionScheduler(7, 6), seq_len=3, tokens=[1, 6, -1])


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
def test_shaping_in_pieces_changes_no_token(process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    law = make_law(4, 3, 2, seed=6)
    scheduler = TokenDiffusionScheduler(4, 2, forward_process=process)
    arguments = {"num_samples": 50, "seq_len": 3, "num_inference_steps": 20, "top_p": 0.8, "block_size": 2}
    whole = sample_block(law.denoiser(scheduler), scheduler, **arguments)  # type: ignore[arg-type]
    monkeypatch.setattr("token_diffusion.samplers.draws.MAX_ELEMENTS", {"cpu": 12})
    pieces = sample_block(law.denoiser(scheduler), scheduler, **arguments)  # type: ignore[arg-type]
    assert pieces.sequences.equal(whole.sequences) and pieces.step_map.equal(whole.step_map)


@pytest.mark.parametrize("shaping", [{"min_p": 0.4}, {"top_p": 0.7}, {"top_p": 0.9, "min_p": 0.3, "temperature": 1.3}])
def test_shaped_samples_follow_the_law_that_shaping_each_draw_makes(shaping: dict[str, float]) -> None:
    """First-hitting: either position first, then the other given it, each from its shaped conditional."""
    law = make_law(5, 2, 4, seed=2)

    def shaped(tokens: list[int], position: int) -> torch.Tensor:
        weight = torch.zeros(5, dtype=torch.float64).index_add_(0, law.sequences[:, position], law.given(tokens))
        given = {name: torch.tensor([value], dtype=torch.float64) for name, value in shaping.items()}
        return probabilities(weight.log().unsqueeze(0), 4, **given)[0]  # type: ignore[arg-type]

    expected = torch.zeros(len(law.sequences), dtype=torch.float64)
    for index, (a, b) in enumerate(law.sequences.tolist()):
        left, right = shaped([-1, -1], 0)[a], shaped([-1, -1], 1)[b]
        expected[index] = (left * shaped([a, -1], 1)[b] + right * shaped([-1, b], 0)[a]) / 2
    scheduler = TokenDiffusionScheduler(5, 4)
    arguments: dict[str, Any] = {"num_samples": 4000, "seq_len": 2, "num_inference_steps": None, "seed": 1} | shaping
    output = sample(law.denoiser(scheduler), scheduler, **arguments)
    assert bool((expected == 0).any()) and chi_square_p(counts(law, output.sequences), expected) > 1e-3
