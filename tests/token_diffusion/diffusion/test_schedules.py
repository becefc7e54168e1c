from __future__ import annotations

import pytest
import torch

from token_diffusion.diffusion.schedules import ALPHA_SCHEDULES, make_schedule
from token_diffusion.errors import ParameterError

T = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)


@pytest.mark.parametrize("name", ALPHA_SCHEDULES)
def test_closed_forms_agree_with_alpha(name: str) -> None:
    schedule = make_schedule(name)
    h = 1e-6
    slope = (schedule.alpha(T + h) - schedule.alpha(T - h)) / (2 * h)
    torch.testing.assert_close(schedule.noise(T), 1 - schedule.alpha(T), atol=1e-14, rtol=1e-12)
    torch.testing.assert_close(schedule.decay(T), -slope, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(schedule.rate(T), -slope / (1 - schedule.alpha(T)), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", ALPHA_SCHEDULES)
def test_inverse_takes_noise_back_to_time(name: str) -> None:
    schedule = make_schedule(name)
    torch.testing.assert_close(schedule.inverse(schedule.noise(T)), T, atol=1e-9, rtol=1e-9)
    assert schedule.inverse(torch.zeros(1, dtype=torch.float64)) == 0


def test_the_papers_values() -> None:
    half = torch.tensor(0.5, dtype=torch.float64)
    assert make_schedule("log_linear", eps=1e-3).alpha(half).item() == pytest.approx(1 - 0.999 * 0.5)
    assert make_schedule("linear").alpha(half).item() == 0.5
    assert make_schedule("cosine").alpha(half).item() == pytest.approx(1 - 0.5**0.5)
    sigma = (1e-4 * 20) ** 0.5 - 1e-4  # measured from t = 0
    assert make_schedule("geometric").alpha(half).item() == pytest.approx(torch.exp(torch.tensor(-sigma)).item())


@pytest.mark.parametrize("name", ALPHA_SCHEDULES)
def test_the_weight_keeps_its_digits_as_t_vanishes(name: str) -> None:
    t = torch.tensor([1e-12], dtype=torch.float64)
    rate = make_schedule(name).rate(t).item()
    assert rate == pytest.approx(1e12, rel=1e-4)


@pytest.mark.parametrize("name", ALPHA_SCHEDULES)
def test_every_schedule_starts_clean(name: str) -> None:
    schedule = make_schedule(name, eps=0.3, sigma_min=0.5)
    assert schedule.noise(torch.zeros(1, dtype=torch.float64)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"alpha_schedule": "sqrt"},
            "alpha_schedule must be one of log_linear, linear, cosine, geometric, got 'sqrt'",
        ),
        ({"alpha_schedule": "log_linear", "eps": 0.0}, "eps must be in (0, 1), got 0.0"),
        ({"alpha_schedule": "geometric", "sigma_min": 2.0, "sigma_max": 1.0}, "satisfy 0 < sigma_min < sigma_max"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError) as raised:
        make_schedule(**arguments)  # type: ignore[arg-type]
    assert message in str(raised.value)
