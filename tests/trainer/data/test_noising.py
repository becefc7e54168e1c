"""Noise: special tokens stay, times are stratified over the whole window, batches do not matter."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from scipy.stats import kstest

from tests.laws import make_law
from token_diffusion.diffusion.scheduler import TokenDiffusionScheduler
from token_diffusion.diffusion.times import time_power
from trainer.data.noising import (
    Batches,
    Collate,
    Draw,
    NoisyExamples,
    TrainingBatches,
    ValidationBatches,
    Window,
    mask_count,
)

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


def test_a_share_of_the_draws_is_shown_no_label_and_has_the_same_noise() -> None:
    scheduler = TokenDiffusionScheduler(vocab_size=20, mask_token_id=MASK)
    labels = np.array([5, 0])
    seeds = np.random.default_rng(0).integers(2**63, size=3000).tolist()
    asked = [Draw(i % 2, 0.5, seed, i) for i, seed in enumerate(seeds)]
    some, again = (NoisyExamples(SEQUENCES, scheduler, SPECIAL, labels=labels, label_dropout=0.1) for _ in range(2))
    shown = Collate(0)([some[draw] for draw in asked])["label"]
    assert torch.equal(shown, torch.stack([again[draw]["label"] for draw in asked])) and shown.dtype == torch.int64
    assert (shown == -1).double().mean() == pytest.approx(0.1, abs=3 * (0.09 / 3000) ** 0.5)
    true = torch.tensor([5, 0] * 1500)
    assert torch.equal(shown[shown >= 0], true[shown >= 0])
    plain = NoisyExamples(SEQUENCES, scheduler, SPECIAL)
    assert all(torch.equal(some[draw]["noisy"], plain[draw]["noisy"]) for draw in asked[:20])
    assert "label" not in Collate(0)([plain[asked[0]]])
    # Of validation, and of streamed sequences, which bring their own.
    told = NoisyExamples(SEQUENCES, scheduler, SPECIAL, labels=labels)
    assert all(int(told[draw]["label"]) == labels[draw.sequence] for draw in asked[:50])
    assert int(plain.noised(SEQUENCES[0], asked[0], 3)["label"]) == 3


def draws(batches: Batches) -> list[Draw]:
    return [draw for batch in batches for draw in batch]


def plan(batch_size: int, seed: int = 0) -> TrainingBatches:
    return TrainingBatches(num_sequences=5, batch_size=batch_size, window=Window(12, seed), num_steps=3)


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


def test_stratified_times_are_those_that_they_always_were() -> None:
    times, seeds = Window(5, 7).noise(3)
    expected = ["0x1.a187ce1f8de50p-2", "0x1.a97602a582308p-3", "0x1.9d90b3dc93bf5p-1", "0x1.372a4d762d58fp-1"]
    assert [time.hex() for time in times.tolist()] == [*expected, "0x1.fb8d217d12d80p-8"]
    assert seeds.tolist()[:2] == [291970237489378395, 1998641885420391600]


def test_independent_times_are_uniform_and_do_not_know_each_other() -> None:
    drawn = Window(4, 0, stratified=False)
    times = np.array([drawn.noise(step)[0] for step in range(4000)])
    assert ((times > 0) & (times <= 1)).all()
    assert kstest(times.ravel(), "uniform").pvalue > 0.01
    # Stratified, each window has one time in each quarter; independent ones do in 4! of 4^4 cases.
    shares = [(np.sort(np.ceil(4 * each), axis=1) == [1, 2, 3, 4]).all(1).mean() for each in (times, stratified())]
    assert shares == [pytest.approx(24 / 256, abs=0.02), 1]
    assert abs(np.corrcoef(times.T)[np.triu_indices(4, 1)]).max() < 0.06  # three standard errors are 0.047
    some, again = (TrainingBatches(num_sequences=5, batch_size=n, window=drawn, num_steps=3) for n in (2, 4))
    assert draws(some) == draws(again)


def stratified() -> np.ndarray:
    """Times [400, 4] of as many windows."""
    return np.array([Window(4, 0).noise(step)[0] for step in range(400)])


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


def test_small_times_drawn_more_often_weigh_less() -> None:
    batches = ValidationBatches(num_sequences=500, num_times=4, batch_size=8, power=2.5)
    t, weight = np.array([(draw.t, draw.weight) for draw in draws(batches)]).T
    assert ((t > 0) & (t <= 1)).all() and (t < 0.05).mean() == pytest.approx(0.05**0.4, abs=0.02)
    for degree in (0, 1, 3):
        assert (weight * t**degree).mean() == pytest.approx(1 / (degree + 1), rel=0.03)


def test_validation_tells_hybrids_whole_bound_and_training_keeps_its_margin() -> None:
    """The exact denoiser of a small law: with t_eps = 0.1 the bound is the entropy all the same."""
    law = make_law(vocab_size=5, length=4, mask_token_id=MASK)
    scheduler = TokenDiffusionScheduler(5, MASK, forward_process="hybrid", t_eps=0.1)
    sequences = list(law.draw(8000, torch.Generator().manual_seed(0)).numpy().astype(np.int32))
    power = time_power(scheduler.process)
    batches = ValidationBatches(num_sequences=8000, num_times=2, batch_size=500, power=power)
    examples, sums = NoisyExamples(sequences, scheduler, [MASK]), []
    for step in batches:
        batch = Collate(0)([examples[draw] for draw in step])
        logits = law.denoiser(scheduler)(batch["noisy"], batch["timesteps"])
        nelbo = scheduler.nelbo(logits, batch["clean"], batch["noisy"], batch["timesteps"]).sum(-1)
        sums.append(nelbo * batch["weight"])
    found = torch.cat(sums).view(-1, 2).mean(1)
    error = found.std().item() / len(found) ** 0.5
    assert error < 0.02 * law.entropy and found.mean().item() == pytest.approx(law.entropy, abs=4 * error)
    training = NoisyExamples(sequences, scheduler, [MASK], margin=0.1)
    assert [training[Draw(0, t, 0, 0)]["timesteps"].item() for t in (1e-9, 0.4, 1.0)] == [0.1, 0.4, 0.9]


def test_a_plan_goes_on_from_any_step() -> None:
    whole = draws(plan(4))
    for first_step in range(4):
        rest = TrainingBatches(num_sequences=5, batch_size=4, window=Window(12, 0), num_steps=3, first_step=first_step)
        assert draws(rest) == whole[12 * first_step :] and len(rest) == 3 * (3 - first_step)


@pytest.mark.parametrize(("num_processes", "accumulation"), [(2, 1), (2, 3), (3, 2)])
def test_processes_and_accumulation_steps_share_one_stratified_window(num_processes: int, accumulation: int) -> None:
    """What accelerate deals to the processes in a step is, in all, the step's window: each stratum of time once."""
    size = 4
    window = size * num_processes * accumulation
    batches = TrainingBatches(num_sequences=50, batch_size=size, window=Window(window, 0), num_steps=3)
    shares = [list(BatchSamplerShard(batches, num_processes, process)) for process in range(num_processes)]
    assert all(len(share) == 3 * accumulation for share in shares)
    for step in range(3):
        steps = [batch for share in shares for batch in share[step * accumulation : (step + 1) * accumulation]]
        together = [draw for batch in steps for draw in batch]
        assert sorted(np.ceil([draw.t * window for draw in together])) == list(range(1, window + 1))
        assert sorted(draw.position for draw in together) == list(range(step * window, (step + 1) * window))


SCHEDULES = ["log_linear", "linear", "cosine", "geometric"]


@pytest.mark.parametrize("alpha_schedule", SCHEDULES)
def test_the_count_is_exact_and_every_choice_equally_likely(alpha_schedule: str) -> None:
    scheduler = TokenDiffusionScheduler(20, MASK, alpha_schedule=alpha_schedule)
    noisable = torch.tensor([False, True, True, True, True, False])
    clean = torch.tensor([2, 7, 8, 9, 10, 3])
    generator = torch.Generator().manual_seed(0)
    for count in range(1, 5):
        seen: Counter[tuple[int, ...]] = Counter()
        for _ in range(600):
            noisy, t, weight = mask_count(scheduler, clean, noisable, (count - 0.5) / 4, generator)
            masked = (noisy == MASK).nonzero().squeeze(-1)
            assert len(masked) == count and bool(noisable[masked].all())
            assert torch.equal(noisy[noisy != MASK], clean[noisy != MASK])
            seen[tuple(masked.tolist())] += 1
        # The time is that at which a token is masked with probability l / n, and weight and rate make n / l.
        assert scheduler.process.masses(t).mask.item() == pytest.approx(count / 4, abs=2e-4)
        rate = scheduler.process.weights(clean, noisy, t)["elbo"]
        assert (weight * rate).item() == pytest.approx(4 / count)
        choices = list(combinations([1, 2, 3, 4], count))
        expected = 600 / len(choices)
        assert (
            sum((seen[choice] - expected) ** 2 / expected for choice in choices) < 20
        )  # chi-square, at most 5 degrees


def test_a_sequence_of_special_tokens_alone_is_left_as_it_is() -> None:
    clean, nothing = torch.tensor([2, 3]), torch.tensor([False, False])
    scheduler = TokenDiffusionScheduler(20, MASK)
    noisy, t, weight = mask_count(scheduler, clean, nothing, 0.3, torch.Generator())
    assert torch.equal(noisy, clean) and 0 < t <= 1 and weight.isfinite()


def estimates(
    counted: bool, alpha_schedule: str, num_steps: int, window: int, stratified: bool = True
) -> torch.Tensor:
    """The NELBO of each step's window under the exact denoiser of a small law, nats a sequence, float64 [num_steps]."""
    law = make_law(vocab_size=5, length=4, mask_token_id=MASK)
    scheduler = TokenDiffusionScheduler(5, MASK, alpha_schedule=alpha_schedule)
    denoiser = law.denoiser(scheduler)
    sequences = law.draw(4000, torch.Generator().manual_seed(0)).numpy().astype(np.int32)
    noisy = NoisyExamples(list(sequences), scheduler, [MASK], counted=counted)
    drawn = Window(window, 1, stratified)
    batches = TrainingBatches(num_sequences=4000, batch_size=window, window=drawn, num_steps=num_steps)
    sums = []
    for step in batches:
        batch = Collate(0)([noisy[draw] for draw in step])
        logits = denoiser(batch["noisy"], batch["timesteps"])
        nelbo = scheduler.nelbo(logits, batch["clean"], batch["noisy"], batch["timesteps"]).sum(-1)
        sums.append((nelbo * batch["weight"]).mean())
    return torch.stack(sums)


@pytest.mark.parametrize("alpha_schedule", ["log_linear", "cosine"])
def test_counts_estimate_the_entropy_as_times_do_with_less_variance(alpha_schedule: str) -> None:
    """The NELBO of the exact denoiser is the entropy of the law: both estimators must find it, the count's closer."""
    entropy = make_law(vocab_size=5, length=4, mask_token_id=MASK).entropy
    by_time, by_count = (estimates(counted, alpha_schedule, 250, 16) for counted in (False, True))
    for found in (by_time, by_count):
        error = found.std().item() / len(found) ** 0.5
        assert found.mean().item() == pytest.approx(entropy, abs=4 * error + 0.01)
    assert by_count.var() < 0.8 * by_time.var()


def test_independent_times_estimate_the_entropy_with_more_variance() -> None:
    entropy = make_law(vocab_size=5, length=4, mask_token_id=MASK).entropy
    spread, alone = (estimates(False, "log_linear", 250, 16, stratified) for stratified in (True, False))
    error = alone.std().item() / len(alone) ** 0.5
    assert alone.mean().item() == pytest.approx(entropy, abs=4 * error + 0.01)
    assert spread.var() < 0.8 * alone.var()
