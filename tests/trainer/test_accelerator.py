"""The accelerator of a run follows the flags and nothing else; what a file or a pipe is told has no bars in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tests.tiny import save_tiny
from tests.training_runs import forked
from tests.workplaces import make_workplace
from token_diffusion.errors import ParameterError
from trainer.__main__ import main, parse
from trainer.accelerator import make_accelerator
from trainer.config import TrainingConfig


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Otherwise the second accelerator of a process is as the first was."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workplace(tmp_path_factory.mktemp("accelerator"), ["the cat sat", "a dog ran"] * 10, vocab_size=280)


def flags(workplace: Path, output_dir: Path, *more: str) -> list[str]:
    found = [
        f"--train_file={workplace / 'text.txt'}",
        f"--tokenizer_name={workplace / 'tokenizer'}",
        "--config_name=bert",
    ]
    found += ["--config_overrides=hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"]
    found += ["--max_length=12", "--max_steps=2", "--report_to=none", "--lr=0.01", f"--output_dir={output_dir}"]
    return [*found, *more]


def test_a_cpu_has_no_fp16(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is a device")
    problem = "mixed_precision must be no or bf16 on a CPU, got 'fp16'"
    assert main(["mdlm", *flags(workplace, tmp_path / "run", "--fp16")]) == 2
    assert capsys.readouterr().err.splitlines() == [problem]
    AcceleratorState._reset_state(True)
    folder = save_tiny(tmp_path / "saved", "absorbing")
    capsys.readouterr()
    assert main(["evaluate", f"--checkpoint_path={folder}", "--num_samples=1", "--fp16"]) == 2
    assert capsys.readouterr().err.splitlines() == [problem]


def test_the_launchers_accumulation_is_followed_once(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate itself would divide the loss by it again. SGD would show that; AdamW's epsilon must, so it is large."""
    large = ["--adam_epsilon=1", "--max_grad_norm=1e9", "--per_device_train_batch_size=4"]
    assert main(["mdlm", *flags(workplace, tmp_path / "flag", *large, "--gradient_accumulation_steps=2")]) == 0
    AcceleratorState._reset_state(True)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    assert main(["mdlm", *flags(workplace, tmp_path / "launcher", *large)]) == 0
    first, second = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("flag", "launcher"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    facts = json.loads((tmp_path / "launcher" / "checkpoint-2" / "training_state.json").read_text())
    assert facts["flags"]["gradient_accumulation_steps"] == 2
    assert "--gradient_accumulation_steps=2" in (tmp_path / "launcher" / "final" / "README.md").read_text()


def test_a_compiler_that_the_flags_do_not_know_of_is_not_used(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    config = parse("mdlm", flags(workplace, tmp_path))
    assert isinstance(config, TrainingConfig)
    assert make_accelerator(config).state.dynamo_plugin.backend.value == "NO"


def test_every_tracker_must_be_there(workplace: Path, tmp_path: Path) -> None:
    rest = [flag for flag in flags(workplace, tmp_path) if flag != "--report_to=none"]
    config = parse("mdlm", [*rest, "--report_to", "tensorboard", "dvclive"])
    assert isinstance(config, TrainingConfig)
    with pytest.raises(ParameterError, match="report_to must be none or installed trackers"):
        make_accelerator(config)


def test_no_bar_is_drawn_where_nobody_sees_it_move(workplace: Path, tmp_path: Path) -> None:
    text, final = workplace / "text.txt", tmp_path / "run" / "final"
    train = [
        "mdlm",
        *flags(workplace, tmp_path / "run", f"--validation_file={text}", "--eval_steps=1", "--logging_steps=1"),
    ]
    evaluate = [
        "evaluate",
        f"--checkpoint_path={final}",
        f"--validation_file={text}",
        "--num_samples=1",
        "--seq_len=8",
    ]
    for done in forked([{"arguments": train}, {"arguments": evaluate}]):
        assert done.exit == 0 and "\r" not in done.stderr and "validation" in done.stderr
