"""The training benchmark: its textbook losses are ours in value, and its two steps the same step."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from benchmarks import models
from benchmarks.__main__ import make_parser
from benchmarks.report import Table
from benchmarks.training import part as training
from benchmarks.training import steps
from benchmarks.training.losses import LOSSES, mdlm
from benchmarks.training.part import flops_per_token, loader_speed
from benchmarks.training.shares import shares
from benchmarks.training.steps import SIDES, Bench, Side, difference
from tests.tiny import PROCESSES, tiny_model
from token_diffusion import TokenDiffusionScheduler

VOCAB_SIZE, MASK = 50, 3


def make_scheduler(process: str, **options: float) -> TokenDiffusionScheduler:
    """Noise as the authors' code has it: uniform noise may land on the mask."""
    return TokenDiffusionScheduler(
        VOCAB_SIZE, MASK, forward_process=process, exclude_mask_from_uniform=False, **options
    )


def make_case(scheduler: TokenDiffusionScheduler) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [B, L, V], clean and noisy tokens [B, L], times [B] that float32 holds exactly."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, VOCAB_SIZE, (16, 40), generator=generator)
    x = x + (x == MASK).long()
    t = torch.linspace(0.02, 0.98, 16).double()
    z = scheduler.add_noise(x, timesteps=t, generator=generator)
    return torch.randn(*x.shape, VOCAB_SIZE, generator=generator), x, z, t


@pytest.mark.parametrize(
    ("process", "options"),
    [("absorbing", {}), ("uniform", {}), ("hybrid", {}), ("hybrid", {"p_uniform": 0.4, "gamma": 1.5})],
)
def test_the_authors_losses_are_the_nelbo_in_value_and_gradient(process: str, options: dict[str, float]) -> None:
    scheduler = make_scheduler(process, **options)
    logits, x, z, t = make_case(scheduler)
    found = []
    for loss in (LOSSES[process], None):
        leaf = logits.clone().requires_grad_()
        raw = leaf.clone()  # the authors' code writes into it
        nats = scheduler.nelbo(raw, x, z, t) if loss is None else loss(scheduler, raw, x, z, t)
        (gradient,) = torch.autograd.grad(nats.sum(), leaf)
        found.append((nats.detach(), gradient))
    (theirs, their_gradient), (ours, our_gradient) = found
    torch.testing.assert_close(theirs.sum(-1), ours.sum(-1), rtol=1e-4, atol=0)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(their_gradient, our_gradient, rtol=1e-3, atol=1e-4)
    assert ours.sum() > 100


def small_model(device: str = "cpu", dtype: str = "float32") -> Any:
    """The random model with one narrow layer, without dropout, so that its steps can be compared."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForMaskedLM(config).eval()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benches are made of the small model, and what they set in the environment goes with the test."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for module in (models, steps):
        monkeypatch.setattr(module, "random_model", small_model)
    monkeypatch.setattr(steps, "NUM_WORDS", 640)


@pytest.mark.parametrize("process", PROCESSES)
def test_both_sides_make_the_same_steps(process: str, tmp_path: Path, small: None) -> None:
    bench = Bench(tmp_path, "cpu", "float32", batch_size=4, seq_len=16)
    bench.write()
    run = bench.run(process)
    sides: dict[str, Side] = {name: make(run) for name, make in SIDES.items()}
    before = parameters_to_vector(sides["ours"].model.parameters()).detach().clone()
    with closing(run.feed.batches(0)) as batches:
        for batch in islice(batches, 3):
            assert batch["noisable"].sum() == bench.tokens
            assert difference(sides, batch) < 1e-4
            for side in sides.values():
                side.step(batch)
    theirs, ours = (
        parameters_to_vector(sides[name].model.parameters()).detach() - before for name in ("textbook", "ours")
    )
    assert ours.norm() > 0
    assert torch.cosine_similarity(theirs, ours, dim=0) > 0.999
    torch.testing.assert_close(theirs.norm(), ours.norm(), rtol=1e-3, atol=0)
    assert loader_speed(bench, run.feed, 3) > 0 < loader_speed(bench, bench.streamed(run), 3)


def test_a_section_tells_both_sides_and_a_wrong_loss_fails_it(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def peaks(bench: Bench, process: str) -> dict[str, float]:  # here: another process would not know the small model
        assert all(training.peak_of_steps(bench, process, side) >= 0 for side in SIDES)
        return {"textbook": 12.0, "ours": 8.0}  # what is measured here depends on what earlier tests have left

    monkeypatch.setattr(training, "peaks", peaks)
    monkeypatch.setattr(training, "random_model", small_model)
    monkeypatch.setitem(LOSSES, "absorbing", lambda *case: 1.01 * mdlm(*case))
    flags = {"--per_device_train_batch_size": "4", "--max_length": "128", "--peak_tflops": "0.001"}
    flat = [word for flag in flags.items() for word in flag]
    found = training.section(make_parser().parse_args(["training", "--quick", "--only", "absorbing", "hybrid", *flat]))
    assert found.failures == ["absorbing: the losses differ by 1.0e-02"]
    step, loader, spent = (part for part in found.parts if isinstance(part, Table))
    for row in spent.rows:
        assert sum(int(str(cell).rstrip("%")) for cell in row[1:]) == pytest.approx(100, abs=3)
    assert [row[:2] for row in step.rows] == [("absorbing", "<lambda>"), ("hybrid", "gidd")]
    assert [row[5:8] for row in step.rows] == [(12.0, 8.0, 1.5)] * 2
    assert len(loader.rows) == 4
    for row in (*step.rows, *loader.rows):
        assert all(cell > 0 for cell in row if isinstance(cell, float))


def test_half_precision_weights_are_not_trained() -> None:
    options = make_parser().parse_args(["training", "--dtype", "float16"])
    assert "Measured in float32 or bfloat16 alone." in training.section(options).parts


def test_memory_is_the_peak_and_not_what_is_left() -> None:
    """In a process of its own: this one may hold freed memory that a tensor gets without anything becoming resident."""
    code = """
import torch
from benchmarks.training.part import peak_mb
for mb in (100, 30):
    print(peak_mb(lambda: torch.ones(mb * 2**18).sum(), torch.device("cpu")))
"""
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    assert [float(line) for line in output.split()] == pytest.approx([100, 30], abs=10)


def test_operations_are_those_that_torch_counts() -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    tokens = torch.arange(80).remainder(20).view(1, 80)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens).logits.sum().backward()
    assert flops_per_token(model, 80) == pytest.approx(counter.get_total_flops() / 80, rel=0.01)


def test_time_is_told_apart_by_what_takes_it() -> None:
    weight = torch.randn(600, 600, requires_grad=True)
    products = shares(lambda: [weight @ weight for _ in range(20)])
    assert products["products"] > 0.5 and sum(products.values()) == pytest.approx(1)
    weight.grad, optimizer = torch.ones_like(weight), torch.optim.AdamW([weight])
    moves = shares(lambda: [optimizer.step() for _ in range(20)])
    assert moves["optimizer"] > 0.9 and moves["products"] == 0
