"""Psi samplers: their authors' probabilities and kappas, and the laws that they keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws import Law, chi_square_p, counts, make_law
from tests.token_diffusion.samplers.decoders.corrected import advance, noised, rows_at
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample, sample_block, sample_hybrid
from token_diffusion.diffusion.processes import Masses, leave_probability
from token_diffusion.samplers import Samplers
from token_diffusion.samplers.decoders.psi import SCHEDULES, Psi, kappa_of, psi
from token_diffusion.samplers.parameters import SamplingParameters

RECORDED = json.loads((Path(__file__).parent / "recorded" / "psi.json").read_text())
P = 0.001


def probabilities(
    scheduler: TokenDiffusionScheduler, z: int, theta: Tensor, t: float, s: float, kappa: float
) -> Tensor:
    """Of each token after a step, float64 [V]: between these borders of its uniforms `psi` is constant: one of each is enough."""
    process, whole = scheduler.process, torch.ones((), dtype=torch.float64)
    now, then = (process.masses(whole * time) for time in (t, s))
    clean = Masses(whole, 0 * whole, 0 * whole)
    leaves = [leave_probability(process, torch.tensor(z), theta[z], now, target) for target in (then, clean)]
    ways = [then.alpha, then.alpha + then.mask, whole]
    route = torch.stack([0 * whole, *(leave * way for leave in leaves for way in ways), whole]).sort().values
    again = torch.stack([0 * whole, *((1 - kappa) * way for way in ways), whole]).sort().values
    sizes = len(theta), process.states.count, len(again) - 1, len(route) - 1
    drawn, noise, i, j = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).T
    u_psi, u_route = (again[i] + again[i + 1]) / 2, (route[j] + route[j + 1]) / 2
    weight = theta[drawn] * again.diff()[i] * route.diff()[j]
    like = lambda value: torch.full(drawn.shape, value, dtype=torch.float64)  # noqa: E731
    tokens = psi(
        process, torch.full_like(drawn, z), like(float(theta[z])), drawn, like(t), like(s), like(kappa),
        u_psi, u_route, (noise + 0.5) / process.states.count,
    )  # fmt: skip
    return torch.zeros(len(theta), dtype=torch.float64).index_add_(0, tokens, weight / process.states.count)


@pytest.mark.parametrize("case", RECORDED["steps"], ids=lambda case: f"{case['process']}-{case['t']}-{case['kappa']}")
def test_a_step_has_the_authors_probabilities(case: dict[str, Any]) -> None:
    """Of an absorbing model it is ReMDM's, which goes by another name here."""
    scheduler = TokenDiffusionScheduler(
        5, 4, forward_process=case["process"], alpha_schedule=case["schedule"], exclude_mask_from_uniform=False
    )
    logits = torch.tensor(case["logits"], dtype=torch.float64)
    if case["process"] == "absorbing":
        logits[:, 4] = -torch.inf
    ours = [
        probabilities(scheduler, z, theta, case["t"], case["s"], case["kappa"])
        for z, theta in zip(case["tokens"], logits.softmax(-1), strict=True)
    ]
    assert torch.stack(ours).sub(torch.tensor(case["probabilities"], dtype=torch.float64)).abs().max() < 1e-12


def test_kappa_goes_as_in_the_authors_modes() -> None:
    names = {"max-capped": "cap", "max-rescale": "rescale", "constant-remdm": "loop", "constant": "constant"}
    plain = {"pure-posterior": 1.0, "pure-pc": 0.0}
    process = TokenDiffusionScheduler(5, 4, forward_process="uniform").process
    for recorded in RECORDED["kappas"]:
        mode, _, strength = recorded["mode"].rpartition("-")
        alpha = process.masses(torch.tensor(recorded["t"], dtype=torch.float64)).alpha
        schedule = SCHEDULES.index("constant" if recorded["mode"] in plain else names[mode])
        value = plain[recorded["mode"]] if recorded["mode"] in plain else float(strength)
        ours = kappa_of(torch.tensor(schedule), torch.tensor(value, dtype=torch.float64), alpha[:-1], alpha[1:])
        theirs = torch.tensor(recorded["kappa"], dtype=torch.float64)[:-1]
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6), recorded["mode"]  # theirs has eta in float32


def kappas(n: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Times and kappas of each step."""
    scheduler = TokenDiffusionScheduler(5, 4, forward_process="uniform")
    decoder, rows = rows_at(scheduler, torch.zeros(1, 2, dtype=torch.int64), 0, n, "psi", **options)
    step = torch.arange(n).unsqueeze(0)
    return decoder.times(rows, step)[0][0], decoder.kappa(rows, step)[0]


def test_a_constant_and_a_loop_hold_where_the_authors_have_them() -> None:
    loop, constant = RECORDED["profiles"][0], RECORDED["profiles"][2]
    _, ours = kappas(16, kappa=0.95, t_on=0.5, t_off=0.1)
    assert torch.allclose(ours, torch.tensor(constant["kappa"][:16], dtype=torch.float64))
    t, ours = kappas(20, kappa_schedule="loop")
    stays = ours < 1
    assert stays.tolist() == [False] * 9 + [True] * 10 + [False]
    assert torch.allclose(t[stays], t[9]) and abs(t[9].item() - 0.1) < 2e-3
    # theirs has an idle step at either end, and 1e-4 less noise at alpha_on, as their inverse leaves out eps
    inside = [kappa for kappa in loop["kappa"] if kappa < 1]
    assert len(inside) == 9 and torch.allclose(ours[stays], torch.full((10,), 0.9).double())
    assert abs(inside[0] - 0.9) < 2e-4
    assert torch.allclose(t[:9], torch.linspace(1, float(t[9]), 10)[:9].double())
    assert kappas(8)[1][-1] == 1 and bool((kappas(8)[1][:-1] < 1).all())


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_kappa_one_is_ancestral_token_for_token(process: str) -> None:
    law = make_law(4, 3, 1, seed=2)
    scheduler = TokenDiffusionScheduler(4, 1, forward_process=process)
    arguments: dict[str, Any] = {"num_samples": 50, "seq_len": 3, "num_inference_steps": 12, "block_size": 2}
    plain = sample_block(law.denoiser(scheduler), scheduler, **arguments)
    for options in ({"kappa": 1.0}, {"eta": 0.0}, {"eta": 0.0, "kappa_schedule": "rescale"}):
        output = sample_block(law.denoiser(scheduler), scheduler, sampler="psi", **options, **arguments)
        assert output.sequences.equal(plain.sequences) and output.nfe == plain.nfe


CASES = [("uniform", True), ("uniform", False), ("hybrid", True)]


@pytest.mark.parametrize(("process", "excluded"), CASES)
@pytest.mark.parametrize("mask", [0, 1, 3])
def test_each_position_alone_keeps_its_law_at_any_step(
    process: str, excluded: bool, mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the exact law of z_t, one long step, for any kappa; together they do not: they move independently."""
    law, count = make_law(4, 2, mask, seed=3, sharpness=2.0), 10_000
    scheduler = TokenDiffusionScheduler(4, mask, forward_process=process, exclude_mask_from_uniform=excluded)
    before, after = noised(law, scheduler, 0.75), noised(law, scheduler, 0.5)
    generator = torch.Generator().manual_seed(mask)
    for kappa in (0.0, 0.6):
        decoder, rows = rows_at(scheduler, before.draw(count, generator), 1, 4, "psi", kappa=kappa)
        monkeypatch.setattr(Psi, "could_leave", lambda self, rows, step, column, u_route: u_route >= 0)
        plan = advance(decoder, rows, law.denoiser(scheduler))
        assert bool((rows.step == 2).all()) and float(plan.t[0]) == 0.75
        for position in range(2):
            marginal = torch.zeros(4, dtype=torch.float64)
            marginal.index_add_(0, after.sequences[:, position], after.probability)
            observed = torch.bincount(rows.tokens[:, position], minlength=4).double()
            assert chi_square_p(observed, marginal) > P
        assert chi_square_p(counts(after, rows.tokens), after.probability) < 1e-3


def independent(law: Law) -> Law:
    """The law whose positions have a law's marginals and are independent."""
    product = torch.ones(len(law.sequences), dtype=torch.float64)
    for i in range(law.sequences.shape[1]):
        marginal = torch.zeros(law.vocab_size, dtype=torch.float64).index_add_(0, law.sequences[:, i], law.probability)
        product *= marginal[law.sequences[:, i]]
    return Law(law.vocab_size, law.mask_token_id, law.sequences, product)


@pytest.mark.parametrize(("process", "excluded"), CASES)
@pytest.mark.parametrize("options", [{"kappa": 0.3}, {"eta": 0.3}, {"kappa_schedule": "loop", "eta": 0.05}])
def test_where_positions_are_independent_any_grid_has_the_law(
    process: str, excluded: bool, options: dict[str, Any]
) -> None:
    law = independent(make_law(4, 3, 1, seed=5))
    scheduler = TokenDiffusionScheduler(
        4, 1, forward_process=process, exclude_mask_from_uniform=excluded, alpha_schedule="linear"
    )
    output = (sample_hybrid if process == "hybrid" else sample)(
        law.denoiser(scheduler),
        scheduler,
        num_samples=4000,
        seq_len=3,
        num_inference_steps=6,
        sampler="psi",
        **options,
    )
    assert chi_square_p(counts(law, output.sequences), law.probability) > P


@pytest.mark.parametrize(("process", "mask"), [("uniform", 0), ("uniform", 1), ("hybrid", 1), ("hybrid", 2)])
def test_many_steps_with_as_much_correction_reach_the_law(process: str, mask: int) -> None:
    """1 - kappa = 2 / n. Few steps with none but the corrector's way stay off it: the test can tell."""
    law = make_law(3, 2, mask)
    scheduler = TokenDiffusionScheduler(3, mask, forward_process=process)
    sampler = sample_hybrid if process == "hybrid" else sample

    def p(n: int, kappa: float) -> float:
        output = sampler(
            law.denoiser(scheduler), scheduler, num_samples=700, seq_len=2, num_inference_steps=n, sampler="psi",
            kappa=kappa,
        )  # fmt: skip
        return chi_square_p(counts(law, output.sequences), law.probability)

    assert p(150, 1 - 2 / 150) > P and p(10, 0.0) < 1e-6


@pytest.mark.parametrize(
    ("process", "options"),
    [("uniform", {"kappa": 0.9}), ("uniform", {}), ("hybrid", {}), ("hybrid", {"kappa_schedule": "loop"})],
)
def test_passing_over_equals_the_plain_loop_token_for_token(
    process: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    law = make_law(4, 4, 2, seed=6)
    scheduler = TokenDiffusionScheduler(4, 2, forward_process=process)

    def run(tokens: list[int], block_size: int) -> tuple[Tensor, int]:
        output = sample_block(
            law.denoiser(scheduler), scheduler, num_samples=15, seq_len=4, num_inference_steps=20, tokens=tokens,
            block_size=block_size, sampler="psi", **options,
        )  # fmt: skip
        return output.sequences, output.nfe

    cases = [([-1] * 4, 4), ([-1, 1, 3, -1], 1)]
    passing = [run(*case) for case in cases]
    monkeypatch.setattr(Psi, "could_leave", lambda self, rows, step, column, u_route: u_route >= 0)
    for case, (tokens, nfe) in zip(cases, passing, strict=True):
        plain, all_steps = run(*case)
        assert tokens.equal(plain) and all_steps > nfe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kappa": 0.5, "eta": 0.1}, "eta must be absent where kappa is given, got 0.1"),
        ({"t_on": 0.2, "t_off": 0.2}, "t_off must be below t_on = 0.2, got 0.2"),
        ({"t_on": 0.05, "kappa_schedule": "loop"}, "t_off must be below t_on = 0.05, got 0.05"),
        ({"alpha_on": 0.5}, "alpha_on must be absent but for the kappa_schedule loop, got 0.5"),
        ({"kappa": 1.5}, r"kappa must be in \[0, 1\], got 1.5"),
        ({"kappa_schedule": "fast"}, "kappa_schedule must be cap, rescale or loop, got 'fast'"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    scheduler = TokenDiffusionScheduler(6, 5, forward_process="uniform")
    with pytest.raises(ParameterError, match=message):
        Samplers(scheduler).of(SamplingParameters(4, 1, 8, sampler="psi", options=options))
