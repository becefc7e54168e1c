"""The validation bound against values worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from token_diffusion.scheduler import TokenDiffusionScheduler
from trainer.evaluation import evaluate, summarise
from trainer.noising import NoisyExamples, ValidationBatches, make_loader

VOCAB, MASK = 12, 4


class Guess(nn.Module):
    """Knows nothing: the same probability for every token but the mask."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, VOCAB))


def test_the_bound_of_guessing_is_the_log_of_the_vocabulary() -> None:
    """E over t of (1/t) P(masked) ln 11 = ln 11, whatever the text; special tokens would lower it if they counted."""
    scheduler = TokenDiffusionScheduler(vocab_size=VOCAB, mask_token_id=MASK)
    generator = np.random.default_rng(0)
    ids = [np.array([2, *generator.integers(5, VOCAB, size=n), 3], dtype=np.int32) for n in (3, 9, 17, 30) * 25]
    batches = ValidationBatches(num_sequences=100, num_times=8, batch_size=32)
    loader = make_loader(NoisyExamples(ids, scheduler, range(5)), batches, pad_token_id=0, num_workers=0)
    model = Guess()
    bound = evaluate(
        Accelerator(cpu=True),
        model,
        scheduler,
        loader,
        num_sequences=100,
        num_times=8,
        num_chars=5900,
    )
    assert bound.num_tokens == 25 * (3 + 9 + 17 + 30) and model.training
    assert 0 < bound.standard_error < 0.1
    assert bound.nelbo == pytest.approx(math.log(11), abs=4 * bound.standard_error)
    assert bound.bits_per_char == pytest.approx(bound.nelbo / math.log(2) * 1475 / 5900)


def test_summary_is_a_ratio_with_its_standard_error() -> None:
    sums, counts = torch.tensor([4.0, 2.0, 9.0]).double(), torch.tensor([2.0, 2.0, 4.0]).double()
    bound = summarise(sums, counts, num_times=1)
    nelbo = 15 / 8
    residuals = [4 - 2 * nelbo, 2 - 2 * nelbo, 9 - 4 * nelbo]
    assert bound.nelbo == nelbo and bound.perplexity == math.exp(nelbo) and bound.bits_per_char is None
    assert bound.standard_error == pytest.approx(math.sqrt(3 / 2 * sum(r * r for r in residuals)) / 8)
    assert math.isnan(summarise(sums[:1], counts[:1], num_times=1).standard_error)


def test_standard_error_shrinks_as_the_square_root_of_the_sequences() -> None:
    generator = torch.Generator().manual_seed(0)
    sums = torch.rand(4000, generator=generator, dtype=torch.float64)
    few, many = (summarise(part, torch.ones_like(part), 1) for part in (sums[:250], sums))
    assert many.standard_error == pytest.approx(math.sqrt(1 / 12 / 4000), rel=0.05)
    assert few.standard_error / many.standard_error == pytest.approx(4, rel=0.15)
