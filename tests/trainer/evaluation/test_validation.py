"""The validation bound against values worked out by hand."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tests.tiny import PROCESSES, mixer, tiny_model
from token_diffusion.diffusion.scheduler import TokenDiffusionScheduler
from token_diffusion.networks.behaviour import behaviour
from token_diffusion.networks.groups import Grouping
from token_diffusion.networks.masked_lm import Head
from trainer.data.noising import Collate, Draw, NoisyExamples, ValidationBatches, make_loader
from trainer.data.spelling import Spelling
from trainer.evaluation.bound import Estimate, pooled_ratio, summarise
from trainer.evaluation.validation import evaluate, loss_sums

VOCAB, MASK = 12, 4


class Guess(nn.Module):
    """Knows nothing: the same probability for every token but the mask."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, VOCAB))


def spelled(chars: list[int], utf8_bytes: list[int], given: int = 0, exact: bool = True) -> Spelling:
    return Spelling(np.array(chars), np.array(utf8_bytes), given, exact)


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
        spelling=spelled([len(row) * 4 - 9 for row in ids], [len(row) * 8 for row in ids]),
        weights="moving average",
    )
    assert bound.num_tokens == 25 * (3 + 9 + 17 + 30) and model.training
    assert 0 < bound.standard_error < 0.1
    assert bound.nelbo == pytest.approx(math.log(11), abs=4 * bound.standard_error)
    assert bound.num_chars == 4 * (1475 + 200) - 900
    assert bound.bits_per_char == pytest.approx(bound.nelbo / math.log(2) * 1475 / bound.num_chars)
    assert bound.bits_per_byte == pytest.approx(bound.nelbo / math.log(2) * 1475 / (8 * (1475 + 200)))
    assert "100 sequences, 1,475 tokens, 5,800 characters, 13,400 bytes; 8 times" in bound.counted
    assert "weights: moving average" in str(bound) and "± " in str(bound)


def test_other_noise_is_another_estimate_of_the_same() -> None:
    def times(seed: int) -> list[float]:
        batches = ValidationBatches(num_sequences=3, num_times=4, batch_size=5, seed=seed)
        return [draw.t for batch in batches for draw in batch]

    assert times(0) == times(0) != times(1)


def test_summary_is_a_ratio_with_its_standard_error() -> None:
    sums, counts = torch.tensor([4.0, 2.0, 9.0]).double(), torch.tensor([2.0, 2.0, 4.0]).double()
    bound = summarise(sums, counts, num_times=1)
    nelbo = 15 / 8
    residuals = [4 - 2 * nelbo, 2 - 2 * nelbo, 9 - 4 * nelbo]
    assert bound.nelbo == nelbo and bound.perplexity == math.exp(nelbo) and bound.bits_per_char is None
    assert bound.standard_error == pytest.approx(math.sqrt(3 / 2 * sum(r * r for r in residuals)) / 8)
    assert bound.perplexity_error == pytest.approx(math.exp(nelbo) * bound.standard_error)
    assert bound.bits_per_token_error == pytest.approx(bound.standard_error / math.log(2))
    assert math.isnan(summarise(sums[:1], counts[:1], num_times=1).standard_error)


def test_bits_a_character_have_an_error_of_their_own() -> None:
    """Where the NELBO is the same for every character the ratio is exact, however the tokens vary."""
    sums, counts = torch.tensor([4.0, 2.0, 8.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    text = summarise(sums, counts, 1, spelled([40, 20, 80], [40, 20, 81])).text
    assert text is not None
    assert text.bits_per_char.value == pytest.approx(0.1 / math.log(2))
    assert text.bits_per_char.error == pytest.approx(0, abs=1e-12) and text.bits_per_byte.error > 1e-6
    assert summarise(sums, counts, 1, spelled([0, 0, 0], [0, 0, 0])).text is None


def test_the_standard_error_is_the_spread_of_many_samples() -> None:
    """2,000 samples of 200 pairs that depend on each other: their ratios spread as the estimated error says."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 20, (2000, 200), generator=generator).double()
    sums = counts * 2 + counts.sqrt() * torch.randn(2000, 200, generator=generator) + torch.rand(2000, 200)
    estimates = [pooled_ratio(*pair) for pair in zip(sums, counts, strict=True)]
    spread = torch.tensor([each.value for each in estimates]).std().item()
    mean_error = sum(each.error for each in estimates) / len(estimates)
    assert mean_error == pytest.approx(spread, rel=0.06)
    exponentials = [each.exp() for each in estimates]
    spread = torch.tensor([each.value for each in exponentials]).std().item()
    assert sum(each.error for each in exponentials) / 2000 == pytest.approx(spread, rel=0.06)


def test_figures_are_json_and_say_what_was_counted() -> None:
    sums, counts = torch.tensor([4.0, 2.0]).double(), torch.tensor([2.0, 2.0]).double()
    bound = summarise(sums, counts, 8, spelled([7, 9], [8, 10], given=3, exact=False), "as trained")
    figures = json.loads(json.dumps(bound.figures(), allow_nan=False))
    for name in ("nelbo", "perplexity", "bits_per_token", "bits_per_char", "bits_per_byte"):
        assert figures[name] > 0 and figures[f"{name}_error"] > 0
    assert (figures["num_chars"], figures["num_bytes"], figures["num_given_chars"]) == (16, 18, 3)
    assert figures["num_times"] == 8 and figures["weights"] == "as trained" and not figures["exact_text"]
    assert len(bound.remarks) == 2 and "capitals" in bound.remarks[0] and bound.remarks[1].startswith("3 characters")
    single = summarise(sums[:1], counts[:1], 8).figures()
    assert single["nelbo_error"] is None and single["perplexity_error"] is None
    assert Estimate(1000.0, 1.0).exp().value == math.exp(700)


def noisy_batch(process: str, masks: bool = True) -> dict[str, Tensor]:
    """Three sequences of other lengths, the last of special tokens alone, and another t for each."""
    return Collate(0)(noisy_rows(process, (9, 5, 0), masks))


def noisy_rows(process: str, lengths: tuple[int, ...], masks: bool = True) -> list[dict[str, Tensor]]:
    """Sequences of so many tokens between two special ones."""
    scheduler = TokenDiffusionScheduler(50, 4, forward_process=process)
    generator = np.random.default_rng(1)
    ids = [np.array([2, *generator.integers(5, 50, size=n), 3], dtype=np.int32) for n in lengths]
    examples = NoisyExamples(ids, scheduler, range(5))
    times = (0.9, 0.5, 0.7, 0.8)[: len(ids)] if masks else (1e-9,) * len(ids)
    return [examples[Draw(index, t, seed=index, position=index)] for index, t in enumerate(times)]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "token-diffusion"])
def test_logits_where_the_loss_reads_them_give_the_whole_loss_and_its_gradients(
    architecture: str, process: str
) -> None:
    scheduler, batch = TokenDiffusionScheduler(50, 4, forward_process=process), noisy_batch(process)
    model = tiny_model(architecture)
    head, widths = Head(model), list[int]()
    model.get_output_embeddings().register_forward_hook(lambda _, arguments, out: widths.append(out[..., 0].numel()))

    def run(head: Head | None) -> tuple[Tensor, Tensor, Tensor]:
        model.zero_grad()
        loss, nelbo = loss_sums(model, scheduler, batch, head=head)
        loss.sum().backward()
        return loss, nelbo, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    assert head.gathers
    for ours, plain in zip(run(head), run(None), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    noisable = 9 + 5
    expected = int((batch["noisy"] == 4).sum()) if process == "absorbing" else noisable
    assert widths == [expected, 3 * 11] and 0 < expected <= noisable


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", ["fnet", "funnel"])
def test_a_network_that_sees_padding_learns_from_rows_as_if_each_were_alone(name: str, process: str) -> None:
    """Loss, bound and gradient; the rows have 11, 7, 2 and 11 tokens, and Funnel takes five at least."""
    scheduler, model = TokenDiffusionScheduler(50, 4, forward_process=process), mixer(name)
    grouping, head = behaviour(model).grouping, Head(model)
    assert head.gathers
    rows = noisy_rows(process, (9, 5, 0, 9))
    batch, widths = Collate(0)(rows), list[tuple[int, ...]]()
    model.register_forward_pre_hook(
        lambda _, arguments, keywords: widths.append(tuple(keywords["input_ids"].shape)), with_kwargs=True
    )

    def run(batches: list[dict[str, Tensor]], **options: Any) -> tuple[Tensor, ...]:
        model.zero_grad()
        sums = [loss_sums(model, scheduler, part, **options) for part in batches]
        loss, nelbo = (torch.cat(part) for part in zip(*sums, strict=True))
        (loss * torch.arange(1, 5)).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return loss.detach(), nelbo.detach(), gradient

    one_by_one = [Collate(0)([row]) for row in rows]
    if name == "funnel":
        one_by_one[2] = widened(one_by_one[2], 5)
    alone = run(one_by_one)
    widths.clear()
    for ours, expected in zip(run([batch], head=head, grouping=grouping), alone, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=2e-3)
    assert widths == [(2, 11), (1, 7), (1, 5 if name == "funnel" else 2)]
    for ours, expected in zip(run([batch], grouping=Grouping("row", grouping.shortest)), alone, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=2e-3)
    assert (run([batch], head=head)[0] - alone[0]).abs().max() > 0.1, "the test can tell"


def test_a_validation_of_a_network_that_sees_padding_does_not_depend_on_its_batches() -> None:
    scheduler, model = TokenDiffusionScheduler(50, 4), mixer("fnet")
    generator = np.random.default_rng(0)
    ids = [np.array([2, *generator.integers(5, 50, size=n), 3], dtype=np.int32) for n in (3, 9, 17, 9, 12)]
    found = []
    for batch_size in (1, 4):
        batches = ValidationBatches(num_sequences=5, num_times=3, batch_size=batch_size)
        loader = make_loader(NoisyExamples(ids, scheduler, range(5)), batches, pad_token_id=0, num_workers=0)
        options: dict[str, Any] = {"num_sequences": 5, "num_times": 3, "grouping": behaviour(model).grouping}
        found.append(evaluate(Accelerator(cpu=True), model, scheduler, loader, **options).nelbo)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def widened(batch: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """The batch with more padding."""
    return {
        name: nn.functional.pad(each, (0, length - each.shape[1])) if each.dim() == 2 else each
        for name, each in batch.items()
    }


def test_a_batch_without_a_mask_costs_nothing_and_moves_nothing() -> None:
    scheduler, batch = TokenDiffusionScheduler(50, 4), noisy_batch("absorbing", masks=False)
    assert not (batch["noisy"] == 4).any()
    model = tiny_model()
    loss, nelbo = loss_sums(model, scheduler, batch, head=Head(model))
    loss.sum().backward()
    assert loss.tolist() == nelbo.tolist() == [0, 0, 0]
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_looking_at_a_head_leaves_the_model_and_the_random_generator_alone() -> None:
    model = tiny_model(hidden_dropout_prob=0.5).train()
    state = torch.get_rng_state()
    assert Head(model).gathers
    assert model.training and torch.get_rng_state().equal(state)
    assert model(torch.ones(1, 4, dtype=torch.int64)).logits.shape == (1, 4, 50)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_block_is_measured_with_those_before_it_clean(process: str) -> None:
    """As if each were asked alone, and so are gradients; those behind it say nothing."""
    scheduler, batch = TokenDiffusionScheduler(50, 4, forward_process=process), noisy_batch(process)
    model = tiny_model("token-diffusion", causal_block_size=4)
    clean, noisy, length = batch["clean"], batch["noisy"], batch["clean"].shape[1]

    def apart() -> Tensor:
        blocks = []
        for start in range(0, length, 4):
            shown = torch.cat([clean[:, :start], noisy[:, start:]], 1)
            blocks.append(model(shown, batch["attention_mask"]).logits[:, start : start + 4])
        nelbo = scheduler.nelbo(torch.cat(blocks, 1), clean, noisy, batch["timesteps"])
        return torch.where(batch["noisable"], nelbo, 0.0).sum(-1)

    def run(sums: Tensor) -> tuple[Tensor, Tensor]:
        model.zero_grad()
        sums.sum().backward()
        return sums.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected = run(apart())
    for head in (None, Head(model)):
        for ours, theirs in zip(run(loss_sums(model, scheduler, batch, head=head)[1]), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, check_dtype=False)
