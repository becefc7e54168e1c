"""How many masks a step sets, and which."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws import chi_square_p
from token_diffusion.diffusion.schedules import make_schedule
from token_diffusion.samplers.decoders.rules import chosen, due_steps, perturbed

LINEAR: Any = make_schedule("linear")
NONE = torch.tensor([math.nan], dtype=torch.float64)


def choose(score: list[float], asked: list[bool] | None = None, **rule: Any) -> list[int]:
    """The positions that are set in one row."""
    values = torch.tensor([score], dtype=torch.float64)
    given: dict[str, Tensor] = {"quota": torch.tensor([0])} | dict.fromkeys(
        ("threshold", "factor", "entropy_bound"), NONE
    )
    for name, value in rule.items():
        given[name] = torch.tensor([value])
    given["entropy"] = torch.tensor(rule.get("entropy", [score]), dtype=torch.float64).view(1, -1)
    where = torch.ones(values.shape, dtype=torch.bool) if asked is None else torch.tensor([asked])
    found: list[int] = chosen(values, where, **given)[0].nonzero().flatten().tolist()
    return found


def test_what_is_left_over_goes_to_the_first_steps() -> None:
    assert due_steps(8, 3, "even", 0.0, LINEAR) == (1, 1, 1, 2, 2, 2, 3, 3)
    assert due_steps(2, 5, "even", 0.0, LINEAR) == due_steps(2, None, "even", 0.0, LINEAR) == (1, 2)
    assert due_steps(0, 5, "even", 0.0, LINEAR) == ()


@pytest.mark.parametrize("schedule", ["linear", "log_linear", "cosine", "geometric"])
@pytest.mark.parametrize(("masks", "steps"), [(24, 10), (24, 1), (7, 30), (1, 4), (200, 64)])
@pytest.mark.parametrize("end", [0.0, 1e-3, 1.0])
def test_the_schedules_quota_is_the_whole_part_of_what_it_says(
    masks: int, steps: int, schedule: str, end: float
) -> None:
    """Step by step in plain words."""
    noise: Any = make_schedule(schedule)
    t = torch.linspace(1, end, steps + 1, dtype=torch.float32)
    left, expected = masks, Counter[int]()
    for i in range(steps):
        ratio = (noise.noise(t[i + 1].double()) / noise.noise(t[i].double())).float()
        expected[i + 1] = left if i == steps - 1 else int(torch.tensor(left) * (1 - ratio))
        left -= expected[i + 1]
    due = due_steps(masks, steps, "schedule", end, noise)
    assert list(due) == sorted(due) and len(due) == masks
    assert Counter(due) == +expected


def test_a_quota_takes_the_highest_and_of_equal_ones_the_first() -> None:
    assert choose([0.1, 0.9, 0.5, 0.9], quota=2) == [1, 3]
    assert choose([0.5, 0.9, 0.9, 0.9], quota=2) == [1, 2]
    assert choose([0.1, 0.9, 0.5, 0.9], [True, False, True, False], quota=3) == [0, 2]
    assert choose([0.1, 0.9], quota=0) == []


def test_a_threshold_takes_all_that_reach_it_and_one_at_least() -> None:
    assert choose([0.5, 0.89, 0.9, 0.95], threshold=0.9) == [2, 3]
    assert choose([0.5, 0.7, 0.7], threshold=0.9) == [1]
    assert choose([-3.0, 0.7, 0.95], [True, False, False], threshold=0.9) == [0]


def test_a_factor_asks_more_of_each_that_follows() -> None:
    assert choose([0.9, 0.7, 0.6], factor=1.0) == [0, 1], "the bars are 1/2, 2/3, 3/4"
    assert choose([0.2, 0.1], factor=1.0) == [0]
    assert choose([0.2, 0.1, 0.0], factor=4.0) == [0, 1, 2], "bars below 0"
    assert choose([0.2, 0.1, 0.0], [False, True, True], factor=4.0) == [1, 2]


def test_an_entropy_bound_leaves_the_largest_of_them_out() -> None:
    entropy = [0.1, 0.2, 0.4, 3.0]
    assert choose([-h for h in entropy], entropy=entropy, entropy_bound=0.3) == [0, 1, 2]
    assert choose([-h for h in entropy], entropy=entropy, entropy_bound=0.29) == [0, 1]
    assert choose([-h for h in entropy], entropy=entropy, entropy_bound=0.0) == [0]
    assert choose([0.0, 0.0, -1.0], entropy=[0.0, 0.0, 1.0], entropy_bound=0.0) == [0, 1, 2], (
        "what is certain costs nothing"
    )
    assert choose([1.0, 0.9, 0.8], entropy=[3.0, 0.1, 0.1], entropy_bound=0.15) == [0, 1], "ranked by something else"


def test_rules_of_several_rows_are_each_rows_own() -> None:
    score = torch.tensor([[0.9, 0.8, 0.1]] * 4, dtype=torch.float64)
    nan = math.nan
    found = chosen(
        score,
        torch.ones(4, 3, dtype=torch.bool),
        torch.tensor([3, 0, 0, 0]),
        torch.tensor([nan, 0.85, nan, nan]),
        torch.tensor([nan, nan, 1.0, nan]),
        torch.tensor([nan, nan, nan, 0.0]),
        torch.ones(4, 3, dtype=torch.float64),
    )
    assert found.sum(1).tolist() == [3, 1, 2, 1]


def test_perturbed_scores_draw_without_replacement() -> None:
    """The pairs of the two highest have the probabilities of draws from softmax(score / temperature), one after the other."""
    count, temperature = 20_000, 0.4
    score = torch.tensor([0.3, 0.9, 0.6], dtype=torch.float64)
    u = torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    u[0] = torch.tensor([0.0, 0.5, 0.5])  # the end of the range is no infinity
    drawn = perturbed(score.expand(count, 3), torch.full((count, 3), temperature, dtype=torch.float64), u)
    assert drawn.isfinite().all()
    p = (score / temperature).softmax(0)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    expected = torch.stack([p[i] * p[j] / (1 - p[i]) for i, j in pairs])
    first, second = drawn.topk(2).indices.T
    observed = torch.tensor([((first == i) & (second == j)).sum().double() for i, j in pairs])
    assert chi_square_p(observed, expected) > 0.001
    assert perturbed(score, torch.zeros(3, dtype=torch.float64), u[0]).equal(score)
