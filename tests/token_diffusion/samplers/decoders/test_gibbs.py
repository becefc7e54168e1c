"""The Gibbs corrector: what it leaves as it is, exactly, and when it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws import chi_square_p, counts, make_law
from tests.token_diffusion.samplers.decoders.corrected import advance, noised, rows_at
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample, sample_block, sample_hybrid
from token_diffusion.samplers import Samplers
from token_diffusion.samplers.decoders.gibbs import GibbsThinning
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.rows import NEVER

RECORDED = json.loads((Path(__file__).parent / "recorded" / "gibbs.json").read_text())
P = 0.001


@pytest.mark.parametrize(("process", "excluded"), [("uniform", True), ("uniform", False), ("hybrid", True)])
@pytest.mark.parametrize("mask", [0, 1, 3])
def test_one_position_at_random_leaves_the_law_of_noisy_text_as_it_is(process: str, excluded: bool, mask: int) -> None:
    """Three corrector steps from the exact law; all positions at once do not: the test can tell."""
    law, count, denoiser_steps = make_law(4, 3, mask, seed=7), 5000, 3
    scheduler = TokenDiffusionScheduler(4, mask, forward_process=process, exclude_mask_from_uniform=excluded)
    exact, denoiser = noised(law, scheduler, 0.3), law.denoiser(scheduler)
    tokens = exact.draw(count, torch.Generator().manual_seed(mask))
    for num_corrected in (1, 3):
        options = {"num_corrector_steps": denoiser_steps, "num_corrected": num_corrected}
        decoder, rows = rows_at(scheduler, tokens, 7, 10, "gibbs", **options)
        rows.corrections.fill_(denoiser_steps)
        for _ in range(denoiser_steps):
            plan = advance(decoder, rows, denoiser)
            assert len(plan.positions) == count * num_corrected and abs(float(plan.t[0]) - 0.3) < 1e-12
        assert bool((rows.corrections == 0).all()) and bool((rows.step == 7).all())
        p = chi_square_p(counts(exact, rows.tokens), exact.probability)
        assert p > P if num_corrected == 1 else p < 1e-6
        moved = (rows.tokens != tokens).double().mean()
        assert moved > 0.3


@pytest.mark.parametrize("mask", [0, 1, 3])
def test_redrawing_what_shows_leaves_the_law_of_masked_text_as_it_is(mask: int) -> None:
    law, count = make_law(4, 3, mask, seed=7), 5000
    scheduler = TokenDiffusionScheduler(4, mask)
    exact, denoiser = noised(law, scheduler, 0.3), law.denoiser(scheduler)
    tokens = exact.draw(count, torch.Generator().manual_seed(mask))
    tokens = tokens[(tokens != mask).any(1)]
    shown = exact.probability * (exact.sequences != mask).any(1)
    for num_corrected in (1, 3):
        decoder, rows = rows_at(scheduler, tokens, 7, 10, "gibbs", num_corrector_steps=3, num_corrected=num_corrected)
        rows.corrections.fill_(3)
        rows.due_step.copy_(torch.where(tokens == mask, 8, NEVER))
        for _ in range(3):
            advance(decoder, rows, denoiser)
        assert bool(((rows.tokens == mask) == (tokens == mask)).all())
        p = chi_square_p(counts(exact, rows.tokens), shown / shown.sum())
        assert p > P if num_corrected == 1 else p < 1e-6


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: str(case["alpha"]))
def test_a_redraw_has_the_probabilities_of_diffusers(case: dict[str, Any]) -> None:
    """Given the leave-one-out logits, which that scheduler makes of a posterior's and our networks have."""
    scheduler = TokenDiffusionScheduler(6, 5, forward_process="uniform", alpha_schedule="linear")
    logits = torch.nn.functional.pad(torch.tensor(case["logits"], dtype=torch.float64), (0, 1))
    count, step = 8000, round(case["alpha"] * 10)
    tokens = torch.tensor(case["tokens"]).repeat(count, 1)
    decoder, rows = rows_at(scheduler, tokens, step, 10, "gibbs", num_corrected=4)
    rows.corrections.fill_(1)
    advance(decoder, rows, lambda z, t: logits.expand(len(z), -1, -1))
    for position, probability in enumerate(case["probabilities"]):
        observed = torch.bincount(rows.tokens[:, position], minlength=5).double()
        assert chi_square_p(observed, torch.tensor(probability, dtype=torch.float64)) > P


def test_the_least_confident_are_drawn_by_how_little_the_network_makes_of_them() -> None:
    """Positions with probabilities p_i of what they hold, one drawn: it is i with probability (1 / p_i) / sum_j (1 / p_j)."""
    scheduler = TokenDiffusionScheduler(5, 4, forward_process="uniform", alpha_schedule="linear")
    theta = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.25] * 4, [0.01, 0.33, 0.33, 0.33]], dtype=torch.float64)
    logits = torch.nn.functional.pad(theta.log(), (0, 1))
    decoder, rows = rows_at(
        scheduler, torch.zeros(8000, 3, dtype=torch.int64), 6, 10, "gibbs", corrected="least_confident"
    )
    rows.corrections.fill_(1)
    plan = advance(decoder, rows, lambda z, t: logits.expand(len(z), -1, -1))
    assert len(plan.positions) == 3 * 8000
    there = 0.6 * theta[:, 0] + 0.1
    moves = (1 - there) / there / (1 / there).sum()  # chosen, and another token drawn
    observed = torch.cat([(rows.tokens == 0).all(1).sum().unsqueeze(0), (rows.tokens != 0).sum(0)]).double()
    assert chi_square_p(observed, torch.cat([1 - moves.sum().unsqueeze(0), moves])) > P


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
def test_the_whole_has_the_law_where_ancestral_sampling_has_it(process: str) -> None:
    law = make_law(3, 2, 1, seed=1)
    scheduler = TokenDiffusionScheduler(3, 1, forward_process=process)
    output = (sample_hybrid if process == "hybrid" else sample)(
        law.denoiser(scheduler), scheduler, num_samples=700, seq_len=2, num_inference_steps=50, sampler="gibbs"
    )
    assert chi_square_p(counts(law, output.sequences), law.probability) > P


@pytest.mark.parametrize("n", [None, 2])
def test_corrections_mend_what_few_steps_and_blocks_leave(n: int | None) -> None:
    """Positions unmasked together are independent; ten redraws after each step make them the law's, given what is fixed."""
    law, tokens = make_law(3, 4, 0, seed=3, sharpness=2.0), [-1, 1, -1, -1]
    scheduler = TokenDiffusionScheduler(3, 0)
    arguments: dict[str, Any] = {"num_samples": 1500, "seq_len": 4, "num_inference_steps": n, "tokens": tokens}
    plain = sample(law.denoiser(scheduler), scheduler, **arguments)
    output = sample(law.denoiser(scheduler), scheduler, sampler="gibbs", num_corrector_steps=12, **arguments)
    assert chi_square_p(counts(law, output.sequences), law.given(tokens)) > P
    assert (chi_square_p(counts(law, plain.sequences), law.given(tokens)) > P) == (n is None)
    blocks = sample_block(
        law.denoiser(scheduler),
        scheduler,
        block_size=2,
        sampler="gibbs",
        **(arguments | {"num_inference_steps": None}),
    )
    assert chi_square_p(counts(law, blocks.sequences), law.given(tokens)) > P
    assert blocks.nfe == 6


@pytest.mark.parametrize(
    ("process", "options"),
    [
        ("uniform", {}),
        ("hybrid", {"num_corrector_steps": 2, "num_corrected": 2}),
        ("uniform", {"corrected": "least_confident"}),
    ],
)
def test_passing_over_steps_equals_the_plain_loop_token_for_token(
    process: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrector steps follow a step of the grid whether or not it was passed over."""
    law = make_law(4, 4, 2, seed=6)
    scheduler = TokenDiffusionScheduler(4, 2, forward_process=process)

    def run() -> tuple[Tensor, int]:
        output = sample_block(
            law.denoiser(scheduler), scheduler, num_samples=15, seq_len=4, num_inference_steps=12,
            tokens=[-1, 1, -1, -1], block_size=2, sampler="gibbs", **options,
        )  # fmt: skip
        return output.sequences, output.nfe

    passing, nfe = run()
    monkeypatch.setattr(GibbsThinning, "could_leave", lambda self, rows, step, column, u_route: u_route >= 0)
    plain, all_steps = run()
    assert passing.equal(plain)
    assert all_steps == 2 * (12 + 11 * options.get("num_corrector_steps", 1)) > nfe


def test_what_does_not_fit_is_refused() -> None:
    options = {"corrected": "least_confident"}
    with pytest.raises(ParameterError, match="corrected must be random for the absorbing process"):
        Samplers(TokenDiffusionScheduler(6, 5)).of(SamplingParameters(4, 1, 8, sampler="gibbs", options=options))
    scheduler = TokenDiffusionScheduler(6, 5, forward_process="uniform")
    Samplers(scheduler).of(SamplingParameters(4, 1, 8, sampler="gibbs", options=options))
    with pytest.raises(ParameterError, match="num_corrector_steps must be in"):
        Samplers(scheduler).of(SamplingParameters(4, 1, 8, sampler="gibbs", options={"num_corrector_steps": 0}))
    with pytest.raises(ParameterError, match="num_inference_steps must be an integer for the uniform process"):
        Samplers(scheduler).of(SamplingParameters(4, 1, None, sampler="gibbs"))
