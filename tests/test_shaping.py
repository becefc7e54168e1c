from __future__ import annotations

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tests.laws import chi_square_p
from token_diffusion.shaping import inverse_cdf, probabilities

MASK = 3


def logits(rows: int = 4, vocab_size: int = 9) -> torch.Tensor:
    values = torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(0)) * 2
    values[:, MASK] = 20.0
    return values


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.7, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.8), (1.3, 5, 0.6)]
)
def test_shaping_is_that_of_transformers_once_the_mask_is_gone(temperature: float, top_k: int, top_p: float) -> None:
    raw = logits()
    ids = torch.zeros(len(raw), 1, dtype=torch.int64)
    expected = raw.index_fill(1, torch.tensor([MASK]), -torch.inf)
    expected = TemperatureLogitsWarper(temperature)(ids, expected)
    if top_k:
        expected = TopKLogitsWarper(top_k)(ids, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(ids, expected)
    n = len(raw)
    ours = probabilities(raw, MASK, torch.full((n,), temperature), torch.full((n,), top_k), torch.full((n,), top_p))
    torch.testing.assert_close(ours, expected.softmax(-1))


def test_each_row_has_its_own_parameters_and_the_logits_stay() -> None:
    raw = logits()
    kept = raw.clone()
    together = probabilities(
        raw, MASK, torch.tensor([1.0, 0.5, 0.0, 2.0]), torch.tensor([0, 2, 0, 1]), torch.tensor([1.0, 1.0, 0.5, 0.9])
    )
    for row, (t, k, p) in enumerate([(1.0, 0, 1.0), (0.5, 2, 1.0), (0.0, 0, 0.5), (2.0, 1, 0.9)]):
        alone = probabilities(raw[row : row + 1], MASK, torch.tensor([t]), torch.tensor([k]), torch.tensor([p]))
        torch.testing.assert_close(together[row : row + 1], alone)
    assert raw.equal(kept)
    assert bool((together[:, MASK] == 0).all())


def test_temperature_zero_takes_the_most_probable_token_even_on_a_tie() -> None:
    raw = torch.tensor([[1.0, 5.0, 5.0, 9.0, 0.0]])
    theta = probabilities(raw, MASK, torch.zeros(1))
    assert theta.tolist() == [[0, 1, 0, 0, 0]]


def test_a_mask_that_fills_the_nucleus_changes_nothing() -> None:
    raw = torch.tensor([[1.0, 2.0, 0.0, 30.0]])
    theta = probabilities(raw, MASK, top_p=torch.tensor([0.5]))
    assert theta.tolist() == [[0, 1, 0, 0]]


def test_inverse_cdf_draws_the_law_and_never_a_zero() -> None:
    theta = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    u = torch.rand(50_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u[:2] = torch.tensor([0.0, 1 - 2**-53])
    drawn = inverse_cdf(theta.expand(len(u), -1), u)
    assert drawn[0] == 1 and drawn[1] == 4
    assert chi_square_p(torch.bincount(drawn, minlength=6).double(), theta.double()) > 0.001


def test_rare_tokens_of_a_large_vocabulary_keep_their_share() -> None:
    """100,000 tokens of probability 5e-6 each beside one of 0.5: a float32 sum would lose most of them."""
    theta = torch.cat([torch.tensor([0.5]), torch.full((100_000,), 0.5 / 100_000)]).unsqueeze(0)
    u = torch.linspace(0, 1 - 1e-12, 2001, dtype=torch.float64)
    drawn = torch.cat([inverse_cdf(theta, point.unsqueeze(0)) for point in u])
    expected = ((u - 0.5).clamp(min=0) * 200_000).ceil().long()
    assert (drawn - expected).abs().max() <= 2


@pytest.mark.parametrize(("temperature", "top_p"), [(1e39, 1.0), (1e-300, 1.0), (1.0, 1e-50), (1e39, 1e-50)])
def test_parameters_beyond_float32_still_shape_a_law(temperature: float, top_p: float) -> None:
    raw = torch.tensor([[0.0, 3e38, 1.0, 50.0, -3e38]])
    theta = probabilities(
        raw, MASK, torch.tensor([temperature], dtype=torch.float64), None, torch.tensor([top_p], dtype=torch.float64)
    )
    torch.testing.assert_close(theta.sum(-1), torch.ones(1))
    assert theta[0, MASK] == 0 and theta[0, 1] > 0.2


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_logits_without_a_law_are_refused(value: float) -> None:
    with pytest.raises(FloatingPointError, match="logits are NaN"):
        probabilities(torch.full((1, 9), value), MASK)
