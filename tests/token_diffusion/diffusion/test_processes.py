from __future__ import annotations

import pytest
import torch
from torch import Tensor

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.diffusion.processes import Process, forward, leave_bound, leave_probability, prior
from token_diffusion.diffusion.schedules import ALPHA_SCHEDULES

V = 5
CASES = [("absorbing", name, True) for name in ALPHA_SCHEDULES]
CASES += [("uniform", name, exclude) for name in ALPHA_SCHEDULES for exclude in (True, False)]
CASES += [("hybrid", "log_linear", True)]


def make(process: str, schedule: str, exclude: bool, mask: int = 2) -> Process:
    return TokenDiffusionScheduler(
        V, mask, forward_process=process, alpha_schedule=schedule, exclude_mask_from_uniform=exclude
    ).process


def transition(process: Process, t: float) -> Tensor:
    """q_t(z | x) as a matrix [x, z]."""
    masses = process.masses(torch.tensor(t, dtype=torch.float64))
    z = torch.arange(V).expand(V, V)
    return masses.alpha * torch.eye(V, dtype=torch.float64) + process.states.landing(z, masses)


@pytest.mark.parametrize(("name", "schedule", "exclude"), CASES)
def test_noise_is_a_law_and_composes(name: str, schedule: str, exclude: bool) -> None:
    process = make(name, schedule, exclude)
    for t in (0.1, 0.5, 1.0):
        torch.testing.assert_close(transition(process, t).sum(1), torch.ones(V, dtype=torch.float64))
    assert transition(process, 0.0).equal(torch.eye(V, dtype=torch.float64))


@pytest.mark.parametrize(("name", "schedule", "exclude"), CASES)
def test_forward_draws_from_q(name: str, schedule: str, exclude: bool) -> None:
    process, count = make(name, schedule, exclude), 200_000
    generator = torch.Generator().manual_seed(1)
    u = torch.rand(2, 1, count, dtype=torch.float64, generator=generator)
    z = forward(process, torch.full((1, count), 4), torch.tensor(0.4, dtype=torch.float64), u[0], u[1])
    observed = torch.bincount(z.flatten(), minlength=V).double() / count
    torch.testing.assert_close(observed, transition(process, 0.4)[4], atol=5e-3, rtol=0)


@pytest.mark.parametrize(("name", "schedule", "exclude"), CASES)
@pytest.mark.parametrize("times", [(1.0, 0.7), (0.6, 0.3), (0.6, 0.5999), (0.2, 0.0), (1.0, 0.0)])
def test_routes_are_the_plug_in_posterior(name: str, schedule: str, exclude: bool, times: tuple[float, float]) -> None:
    """The mixture of routes against Bayes: q(z_s | z_t, x) is q(z_t | z_s) q_s(z_s | x) / q_t(z_t | x), theta in place of x."""
    process = make(name, schedule, exclude)
    mask = process.states.mask_token_id
    theta = torch.tensor([0.1, 0.2, 0.0, 0.3, 0.4], dtype=torch.float64)
    t, s = (torch.tensor(time, dtype=torch.float64) for time in times)
    now, then = process.masses(t), process.masses(s)
    matrix_t, matrix_s = transition(process, times[0]), transition(process, times[1])
    # one step t|s with rows z_s: whatever noise x -> z_t has beyond x -> z_s -> (kept) z_t
    kept = now.alpha / then.alpha
    landed = matrix_t - now.alpha * torch.eye(V, dtype=torch.float64)
    landed_s = matrix_s - then.alpha * torch.eye(V, dtype=torch.float64)
    step = kept * torch.eye(V, dtype=torch.float64) + (landed - kept * landed_s)
    for z in range(V):
        if (theta @ matrix_t)[z] <= 0 or (name == "uniform" and exclude and z == mask):
            continue
        bayes = (theta @ matrix_s) * step[:, z] / (theta @ matrix_t)[z]
        leave = leave_probability(process, torch.tensor(z), theta[z], now, then)
        states = torch.ones(V, dtype=torch.float64)
        if process.states.exclude_mask:
            states[mask] = 0
        arrive = then.alpha * theta + then.uniform * states / states.sum()
        arrive[mask] += then.mask
        routes = leave * arrive
        routes[z] += 1 - leave
        torch.testing.assert_close(routes, bayes, atol=1e-12, rtol=1e-9)
        assert leave <= leave_bound(process, torch.tensor(z), now, then) + 1e-12


@pytest.mark.parametrize("mask", [0, 2, V - 1])
def test_uniform_noise_avoids_the_mask_and_covers_the_rest(mask: int) -> None:
    states = make("uniform", "linear", True, mask).states
    drawn = states.draw(torch.linspace(0, 1 - 1e-16, 1000, dtype=torch.float64))
    assert sorted(drawn.unique().tolist()) == [token for token in range(V) if token != mask]


def test_priors() -> None:
    u = torch.rand(4, 6, dtype=torch.float64)
    assert bool((prior(make("absorbing", "linear", True), u) == 2).all())
    assert bool((prior(make("hybrid", "linear", True), u) == 2).all())
    assert not bool((prior(make("uniform", "linear", True), u) == 2).any())


def test_hybrid_has_p_uniform_at_half_time_for_every_gamma() -> None:
    for gamma in (0.5, 1.0, 2.0):
        process = TokenDiffusionScheduler(V, 2, forward_process="hybrid", p_uniform=0.3, gamma=gamma).process
        assert process.masses(torch.tensor(0.5, dtype=torch.float64)).uniform.item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("p_uniform", "gamma", "t", "elbo", "clip", "dynamic"),
    [  # at the mask, at noise, at a clean token; N = 4
        (0.2, 1.0, 0.2, (6.25, 3.125, 3.125 * 0.05 / 0.85), (1.0, 1.0, 3.125 * 0.05 / 0.85), (2.0, 1.0, 0.0625)),
        (0.2, 2.0, 0.8, (6.25, 1.25, 1.25 * 0.04 / 0.24), (1.0, 1.0, 1.25 * 0.04 / 0.24), (2.0, 1.0, 1.0)),
        (0.8, 1.0, 0.8, (6.25, 3.125, 3.125 * 0.8 / 1.0), (1.0, 1.0, 1.0), (2.0, 1.0, 2.0)),
    ],
)
def test_hybrid_weights_by_hand(
    p_uniform: float,
    gamma: float,
    t: float,
    elbo: tuple[float, ...],
    clip: tuple[float, ...],
    dynamic: tuple[float, ...],
) -> None:
    """B = 2^gamma p_u / (1 - p_u) is 0.5, 1, 8 and c = B (t (1-t))^(gamma/2) is 0.2, 0.16, 3.2, so c/N is 0.05, 0.04, 0.8."""
    process = TokenDiffusionScheduler(V, 2, forward_process="hybrid", p_uniform=p_uniform, gamma=gamma).process
    x, z = torch.tensor([[4, 4, 4]]), torch.tensor([[2, 1, 4]])
    weights = process.weights(x, z, torch.full((1, 3), t, dtype=torch.float64))
    for name, expected in {"elbo": elbo, "clip": clip, "dynamic": dynamic}.items():
        assert weights.pop(name)[0].tolist() == pytest.approx(expected)
    assert not weights


def test_dynamic_weights_have_the_proportions_of_the_nelbos() -> None:
    """For gamma = 1 and many tokens: what "dynamic" leaves out is a factor of t alone."""
    process = TokenDiffusionScheduler(30_000, 2, forward_process="hybrid").process
    x, z = torch.tensor([[4, 4, 4]]), torch.tensor([[2, 1, 4]])
    for t in (1e-3, 0.3, 0.9, 0.99):
        weights = process.weights(x, z, torch.full((1, 3), t, dtype=torch.float64))
        ratio = weights["dynamic"] / weights["elbo"]
        torch.testing.assert_close(ratio, torch.full_like(ratio, 2 * t * (1 - t)), rtol=1e-3, atol=0)


def test_other_processes_have_the_nelbos_weights_alone() -> None:
    x, z, t = torch.tensor([[4, 4]]), torch.tensor([[4, 1]]), torch.full((1, 2), 0.5, dtype=torch.float64)
    absorbing = make("absorbing", "linear", True).weights(x, z, t)
    uniform = make("uniform", "linear", True).weights(x, z, t)
    assert absorbing.keys() == uniform.keys() == {"elbo"}
    assert absorbing["elbo"].tolist() == [[2.0, 2.0]]  # 1 / t
    assert uniform["elbo"].tolist() == [pytest.approx([1 / (0.5 * 4 * 0.625), 1 / (0.5 * 4 * 0.125)])]
