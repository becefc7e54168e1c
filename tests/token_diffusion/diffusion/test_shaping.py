from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tests.laws import chi_square_p
from token_diffusion.diffusion.shaping import _bisect, _sorted, inverse_cdf, probabilities

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


@pytest.mark.parametrize("value", [torch.nan, -torch.inf, torch.inf])
@pytest.mark.parametrize("temperature", [None, 0.0, 0.7])
def test_a_row_without_a_law_is_told_and_its_neighbour_is_as_before(value: float, temperature: float | None) -> None:
    raw, u = logits(2, 300), torch.tensor([0.5, 0.5])

    def draw(rows: torch.Tensor) -> torch.Tensor:
        n = len(rows)
        t = None if temperature is None else torch.full((n,), temperature)
        return inverse_cdf(probabilities(rows, MASK, t, torch.full((n,), 5), torch.full((n,), 0.8)), u[:n])

    expected = draw(raw)[0]
    raw[1] = value
    assert draw(raw).tolist() == [expected, -1]


def test_the_nucleus_keeps_as_many_of_equal_tokens_as_it_needs_and_the_first_of_them() -> None:
    raw = torch.tensor([[2.0, 1.0, 1.0, -9.0, 1.0, 1.0, 0.0]]).repeat(3, 1)
    weights = raw[0].exp().index_fill(0, torch.tensor([MASK]), 0.0)
    share = weights / weights.sum()
    wanted = torch.stack([share[0] + share[1] * count - 1e-4 for count in (1, 3, 4)])
    kept = probabilities(raw, MASK, top_p=wanted) > 0
    assert kept.tolist() == [
        [True, True, False, False, False, False, False],
        [True, True, True, False, True, False, False],
        [True, True, True, False, True, True, False],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [300, 3000, 20_000])
@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
def test_the_nucleus_is_that_of_a_sort(dtype: torch.dtype, spread: float, size: int) -> None:
    raw = torch.randn(8, size, dtype=dtype, generator=torch.Generator().manual_seed(2)) * spread
    top_p = torch.linspace(0.05, 0.99, 8)
    theta = probabilities(raw, MASK)
    ranked, order = theta.sort(-1, descending=True)
    before = ranked.double().cumsum(-1) - ranked.double()
    expected = torch.zeros_like(theta, dtype=torch.bool).scatter(-1, order, before < top_p.double().unsqueeze(-1))
    differing = ((probabilities(raw, MASK, top_p=top_p) > 0) != expected).sum(-1)
    assert int(differing.max()) <= 1, "the token that crosses may differ by rounding, no other one"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.0, 0.01, 6.0])
def test_an_accelerator_finds_the_crossing_token_that_a_cpu_finds(dtype: torch.dtype, spread: float) -> None:
    raw = torch.randn(16, 3000, dtype=dtype, generator=torch.Generator().manual_seed(4)) * spread
    theta, p = probabilities(raw, MASK), torch.linspace(0.04, 0.98, 16, dtype=dtype)
    sorted_, bisected = _sorted(theta, p), _bisect(theta, p)
    ranked = theta.sort(-1, descending=True).values
    rank = [torch.searchsorted(-ranked, -each.unsqueeze(-1)) for each in (sorted_, bisected)]
    assert int((rank[0] - rank[1]).abs().max()) <= 1, "by rounding, the next one"


def test_a_row_is_shaped_to_the_last_bit_alone_as_among_others() -> None:
    """50,368 tokens (ModernBERT's): a CPU would split the sum of one such row over threads."""
    raw = torch.randn(8, 50_368, generator=torch.Generator().manual_seed(5)) * 3
    top_p, threads = torch.full((8,), 0.9), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = probabilities(raw, MASK, top_p=top_p)
        alone = [probabilities(raw[row : row + 1], MASK, top_p=top_p[:1]) for row in range(8)]
    finally:
        torch.set_num_threads(threads)
    assert torch.cat(alone).equal(together)


@pytest.mark.parametrize("vocab_size", [1, 5, 127, 128, 129, 1000])
def test_a_draw_is_the_plain_inverse_of_the_cumulative_sum(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    theta = torch.rand(400, vocab_size, generator=generator, dtype=torch.float64)
    theta = theta * (torch.rand(theta.shape, generator=generator) < 0.3)
    theta[theta.sum(-1) == 0] = 1.0
    theta = theta / theta.sum(-1, keepdim=True)
    u = torch.rand(400, generator=generator, dtype=torch.float64)
    plain = torch.searchsorted(theta.cumsum(-1), u.unsqueeze(-1), right=True).squeeze(-1)
    assert inverse_cdf(theta, u).equal(plain)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(1.0, 0, 1.0, 0.2), (0.7, 0, 1.0, 0.05), (1.0, 4, 0.9, 0.3), (1.5, 0, 0.7, 0.6), (1.0, 0, 1.0, 1.0)],
)
def test_min_p_is_that_of_transformers_after_all_else(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    raw, n = logits(64, 40), 64
    ids: Any = torch.zeros(n, 1, dtype=torch.int64)
    expected = raw.index_fill(1, torch.tensor([MASK]), -torch.inf)
    for warp in (
        TemperatureLogitsWarper(temperature),
        TopKLogitsWarper(top_k or 40),
        TopPLogitsWarper(top_p),
        MinPLogitsWarper(min_p),
    ):
        expected = warp(ids, expected)
    names, values = ("temperature", "top_k", "top_p", "min_p"), (temperature, top_k, top_p, min_p)
    shape: dict[str, Any] = {name: torch.full((n,), value) for name, value in zip(names, values, strict=True)}
    torch.testing.assert_close(probabilities(raw, MASK, **shape), expected.softmax(-1))


def test_min_p_keeps_the_most_probable_token_and_its_equals() -> None:
    raw = torch.tensor([[2.0, 2.0, 1.0, 30.0, -1.0]]).repeat(3, 1)
    kept = probabilities(raw, MASK, min_p=torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64))
    weights = raw[0].exp().index_fill(0, torch.tensor([MASK]), 0.0)
    for row, count in enumerate((2, 3, 4)):
        expected = weights * (torch.arange(5) < (count if count < 4 else 5))
        torch.testing.assert_close(kept[row], expected / expected.sum())


@pytest.mark.parametrize("stage", ["temperature", "top_k", "top_p", "min_p"])
def test_a_row_that_asks_for_nothing_is_the_same_to_the_last_bit_beside_one_that_does(stage: str) -> None:
    raw, neutral = logits(6, 3000), {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}[stage]
    value = {"temperature": 0.7, "top_k": 9, "top_p": 0.8, "min_p": 0.1}[stage]
    asked = torch.tensor([value, neutral] * 3)
    assert probabilities(raw, MASK, **{stage: asked})[1::2].equal(probabilities(raw, MASK)[1::2])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [torch.nan, -torch.inf, torch.inf])
def test_a_row_without_a_law_has_none_after_min_p(value: float) -> None:
    raw = logits(2, 300)
    raw[1] = value
    for top_p in (None, torch.ones(2), torch.full((2,), 0.5)):
        for min_p in (torch.zeros(2), torch.full((2,), 0.5)):
            theta = probabilities(raw, MASK, None, None, top_p, min_p)
            assert bool(theta[1].isnan().all()) and not bool(theta[0].isnan().any())
