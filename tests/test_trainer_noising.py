"""Noise: special tokens stay, times are stratified over the whole window, batches do not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from token_diffusion.scheduler import TokenDiffusionScheduler
from trainer.noising import Batches, Collate, Draw, NoisyExamples, TrainingBatches, ValidationBatches

MASK, SPECIAL = 4, [0, 1, 2, 3, 4]
SEQUENCES = [np.array([2, 7, 8, 9, 3], dtype=np.int32), np.array([2, 10, 1, 11, 12, 3], dtype=np.int32)]


def examples(process: str = "absorbing") -> NoisyExamples:
    scheduler = TokenDiffusionScheduler(vocab_size=20, mask_token_id=MASK, forward_process=process)
    return NoisyExamples(SEQUENCES, scheduler, SPECIAL)


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
def test_special_tokens_and_padding_are_never_noised_or_counted(process: str) -> None:
    noisy = examples(process)
    batch = Collate(0)([noisy[Draw(i % 2, 1.0, seed, 0)] for seed, i in enumerate([0, 1] * 50)])
    special = torch.isin(batch["clean"], torch.tensor(SPECIAL))
    assert torch.equal(batch["noisy"][special], batch["clean"][special])
    assert torch.equal(batch["noisable"], ~special)
    assert batch["noisable"].sum() == 50 * (3 + 3)
    assert torch.equal(batch["attention_mask"].sum(-1), torch.tensor([5, 6] * 50))
    changed = (batch["noisy"] != batch["clean"])[~special].double().mean()
    assert changed > 0.9 if process != "absorbing" else changed == 1


def test_noise_depends_on_the_draw_alone() -> None:
    noisy, draw = examples("uniform"), Draw(1, 0.5, 7, 3)
    alone = Collate(0)([noisy[draw]])
    among = Collate(0)([noisy[Draw(0, 0.9, 1, 0)], noisy[draw]])
    assert torch.equal(alone["noisy"][0], among["noisy"][1])
    assert not torch.equal(noisy[Draw(1, 1.0, 1, 0)]["noisy"], noisy[Draw(1, 1.0, 2, 0)]["noisy"])


def draws(batches: Batches) -> list[Draw]:
    return [draw for batch in batches for draw in batch]


def plan(batch_size: int, seed: int = 0) -> TrainingBatches:
    return TrainingBatches(num_sequences=5, batch_size=batch_size, window=12, num_steps=3, seed=seed)


def test_times_are_stratified_over_the_window_whatever_the_batch_size() -> None:
    batches = plan(4)
    assert len(batches) == 9 and [len(batch) for batch in batches] == [4] * 9
    assert draws(batches) == draws(plan(2)) == draws(plan(12)) != draws(plan(12, seed=1))
    for step in range(3):
        times = np.array([draw.t for draw in draws(batches)[12 * step : 12 * step + 12]])
        assert ((times > 0) & (times <= 1)).all()
        assert sorted(np.ceil(times * 12)) == list(range(1, 13))
        np.testing.assert_allclose(np.diff(np.sort(times)), 1 / 12)
        assert (np.sort(times) != times).any()


def test_every_epoch_visits_every_sequence_once() -> None:
    order = [draw.sequence for draw in draws(plan(4))]
    epochs = [order[start : start + 5] for start in range(0, 35, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_validation_draws_cover_sequences_and_strata_and_never_change() -> None:
    batches = ValidationBatches(num_sequences=3, num_times=4, batch_size=5)
    assert [len(batch) for batch in batches] == [5, 5, 2] and len(batches) == 3
    found = draws(batches)
    assert found == draws(batches)
    assert [draw.position for draw in found] == list(range(12))
    assert [draw.sequence for draw in found] == [0] * 4 + [1] * 4 + [2] * 4
    for sequence in range(3):
        times = [draw.t for draw in found if draw.sequence == sequence]
        assert sorted(np.ceil(np.array(times) * 4)) == [1, 2, 3, 4]
