"""How sure a network is, read cheaply, against the plain formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from token_diffusion.diffusion.certainty import Certainty, certainty_of, certainty_of_logits
from token_diffusion.diffusion.shaping import CHUNK

MASK = 1


def plainly(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    theta = logits.double().softmax(-1)
    sorted_theta = theta.sort(descending=True).values
    return logits.argmax(-1), sorted_theta[:, 0], sorted_theta[:, 1], torch.special.entr(theta).sum(-1)


def check(found: Certainty, logits: Tensor) -> None:
    token, largest, second, entropy = plainly(logits)
    assert found.token.equal(token)
    for its, expected in ((found.largest, largest), (found.second, second), (found.entropy, entropy)):
        torch.testing.assert_close(its.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("vocab_size", [3, 40, CHUNK, CHUNK + 1, 3 * CHUNK, 1000])
def test_it_is_what_the_formulas_say(vocab_size: int) -> None:
    logits = torch.randn(30, vocab_size, generator=torch.Generator().manual_seed(vocab_size)) * 3
    logits[0] = 0.0
    logits[1, 0] = logits[1, -1] = 30.0  # two that are equal, in the first and the last chunk
    logits[2] = -torch.inf
    logits[2, 2] = 5.0  # nothing but one token
    logits[3] += 1000.0
    before = logits.clone()
    found = certainty_of_logits(logits, MASK)
    assert logits.equal(before)
    logits[:, MASK] = -torch.inf
    check(found, logits)
    check(certainty_of(logits.softmax(-1)), logits)
    assert found.second[1] == found.largest[1] and found.token[1] == 0, (
        "equal ones are equal, and the first is the token"
    )
    assert found.entropy[2] == 0 and found.largest[2] == 1 and found.second[2] == 0
    assert certainty_of_logits(before.double(), MASK).entropy.dtype == torch.float64


def test_logits_that_differ_by_less_than_their_probabilities_can_tell_have_an_order() -> None:
    logits = torch.full((1, 4), -10.0)
    logits[0, 2], logits[0, 3] = 0.0, 1e-9
    assert logits.softmax(-1).argmax().item() == 2
    assert certainty_of_logits(logits, MASK).token.tolist() == [3]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_where_there_is_no_distribution_there_is_no_number(bad: float) -> None:
    logits = torch.zeros(2, 5)
    logits[1] = bad
    found = certainty_of_logits(logits, MASK)
    for each in (found.largest, found.second, found.entropy):
        assert each.isnan().tolist() == [False, True]
    assert 0 <= found.token[1] < 5


def test_what_is_not_asked_for_is_not_computed() -> None:
    logits = torch.randn(4, 9)
    neither = certainty_of_logits(logits, MASK, margin=False, entropy=False)
    assert neither.second.isnan().all() and neither.entropy.isnan().all()
    both = certainty_of_logits(logits, MASK)
    assert neither.largest.equal(both.largest) and neither.token.equal(both.token)


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    logits = torch.randn(7, 70_000, generator=torch.Generator().manual_seed(3))
    together = certainty_of_logits(logits, MASK)
    for row in range(7):
        alone = certainty_of_logits(logits[row : row + 1], MASK)
        assert alone.largest.equal(together.largest[row : row + 1])
        assert alone.entropy.equal(together.entropy[row : row + 1])
