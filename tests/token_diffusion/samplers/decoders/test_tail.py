"""The greedy tail: the last step of a grid, and no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from token_diffusion import ParameterError, TokenDiffusionScheduler, sample, sample_block, sample_hybrid

VOCAB, MASK = 9, 4


class Preference:
    """Logits that lean towards one token, which is another at each position; tells the times that it was asked at."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(t[0]))
        favourite = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8])[torch.arange(z.shape[1]) % 8]
        return torch.nn.functional.one_hot(favourite, VOCAB).double().expand(*z.shape, -1)


FAVOURITES = [0, 1, 2, 3, 5, 6, 7, 8]


@pytest.mark.parametrize("sampler", ["ancestral", "psi", "gibbs"])
@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_every_open_position_takes_the_most_probable_token_in_the_last_step(process: str, sampler: str) -> None:
    """As Duo's noise removal, whatever has come before."""
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    arguments: dict[str, Any] = {"seq_len": 8, "num_inference_steps": 5, "num_samples": 20, "sampler": sampler}
    run = sample_hybrid if process == "hybrid" else sample
    greedy = run(Preference(), scheduler, greedy_tail=True, **arguments)
    assert greedy.sequences.tolist() == [FAVOURITES] * 20
    assert run(Preference(), scheduler, **arguments).sequences.tolist() != greedy.sequences.tolist()
    tokens = [7, -1, -1, -1, 7, -1, -1, -1]
    blocks = sample_block(Preference(), scheduler, block_size=3, greedy_tail=True, tokens=tokens, **arguments)
    assert blocks.sequences.tolist() == [[7, 1, 2, 3, 7, 6, 7, 8]] * 20


@pytest.mark.parametrize("sampler", ["ancestral", "gibbs"])
def test_masks_that_are_left_for_the_last_step_take_it(sampler: str) -> None:
    """As MDLM's noise removal: the tokens of other steps are those of plain sampling."""
    scheduler = TokenDiffusionScheduler(VOCAB, MASK)
    arguments: dict[str, Any] = {"seq_len": 8, "num_inference_steps": 3, "num_samples": 50}
    plain = sample(Preference(), scheduler, **arguments)
    greedy = sample(Preference(), scheduler, greedy_tail=True, sampler=sampler, **arguments)
    last = plain.step_map == 3
    expected = torch.where(last, torch.tensor(FAVOURITES), plain.sequences)
    assert 0 < int(last.sum()) < last.numel()
    if sampler == "ancestral":
        assert greedy.sequences.equal(expected) and greedy.step_map.equal(plain.step_map)
    else:  # what is redrawn after the last step is greedy, too
        assert bool((greedy.sequences == expected)[last].all())


def test_without_a_grid_there_is_no_last_step() -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK)
    with pytest.raises(ParameterError, match="greedy_tail must be false where num_inference_steps is null"):
        sample(Preference(), scheduler, seq_len=8, num_inference_steps=None, greedy_tail=True)
    with pytest.raises(ParameterError, match="greedy_tail must be true or false, got 1"):
        sample(Preference(), scheduler, seq_len=8, greedy_tail=1)
