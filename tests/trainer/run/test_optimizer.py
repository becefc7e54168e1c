"""The optimizers by their names: what each does to a weight, and that all go on from a checkpoint bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.optimization import Adafactor

from tests.tiny import tiny_model
from tests.workplaces import make_workplace
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.run.optimizer import make_optimizer


def configure(*flags: str) -> TrainingConfig:
    config = parse("mdlm", ["--train_file", "a", *flags])
    assert isinstance(config, TrainingConfig)
    return config


def test_the_first_step_of_each() -> None:
    """AdamW's first step is lr · sign(gradient) after the decay; fused is the same; neither decays a bias."""
    moved = {}
    for name in ("adamw_torch", "adamw_torch_fused", "adafactor"):
        model = tiny_model("bert")
        weight = model.get_parameter("bert.encoder.layer.0.output.dense.weight")
        bias = model.get_parameter("bert.encoder.layer.0.output.dense.bias")
        before = weight.detach().clone(), bias.detach().clone()
        optimizer = make_optimizer(configure("--optim", name, "--learning_rate=0.1", "--weight_decay=0.5"), model)
        weight.grad, bias.grad = torch.full_like(weight, 3.0), torch.full_like(bias, -2.0)
        optimizer.step()
        moved[name] = weight.detach() - before[0], bias.detach() - before[1]
        torch.testing.assert_close(moved[name][1], torch.full_like(bias, 0.1), rtol=1e-3, atol=1e-6)
        expected = -0.1 * torch.ones_like(weight) - 0.1 * 0.5 * before[0]
        torch.testing.assert_close(moved[name][0], expected, rtol=2e-3, atol=1e-4)
    assert isinstance(make_optimizer(configure("--optim=adafactor"), tiny_model("bert")), Adafactor)
    assert make_optimizer(configure("--optim=adamw_torch_fused"), tiny_model("bert")).defaults["fused"]


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adafactor"])
def test_a_run_goes_on_as_if_it_had_never_stopped(name: str, tmp_path: Path) -> None:
    workplace = make_workplace(tmp_path, ["the cat sat on the mat", "a dog ran"] * 10, vocab_size=280)
    flags = [
        f"--train_file={workplace / 'text.txt'}",
        f"--tokenizer_name={workplace / 'tokenizer'}",
        "--config_name=bert",
    ]
    flags += ["--config_overrides=hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"]
    flags += [
        "--max_length=12",
        "--num_train_epochs=1",
        "--max_train_samples=16",
        "--save_steps=1",
        "--report_to=none",
    ]
    flags += [f"--optim={name}", f"--output_dir={tmp_path / 'run'}", "--warmup_ratio=0.5", "--learning_rate=0.01"]
    assert main(["mdlm", *flags]) == 0
    final = tmp_path / "run" / "final" / "model.safetensors"
    whole = load_file(final)
    # One epoch of 16 examples in batches of 8.
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    for folder in ("checkpoint-2", "final"):
        shutil.rmtree(tmp_path / "run" / folder)
    assert main(["mdlm", *flags, "--resume_from_checkpoint=latest"]) == 0
    again = load_file(final)
    assert all(torch.equal(again[key], whole[key]) for key in whole)
