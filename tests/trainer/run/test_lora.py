"""Adapters are trained, saved, resumed and merged; the weights beneath them stay as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from tests.tiny import save_tiny, word_tokenizer
from tests.token_diffusion.networks.families.hub_folders import write_llada
from token_diffusion.checkpoint.adapter import merge_adapter
from token_diffusion.errors import ParameterError
from trainer.__main__ import main, parse
from trainer.accelerator import make_accelerator
from trainer.config import TrainingConfig
from trainer.data.corpus import load_corpus
from trainer.run.start import find_start, settled
from trainer.run.train import Run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in float32, one in bfloat16, and a text."""
    folder = tmp_path_factory.mktemp("lora")
    save_tiny(folder / "base", "absorbing", tokenizer=word_tokenizer(40))
    save_tiny(folder / "half", "absorbing", tokenizer=word_tokenizer(40))
    model: Any = AutoModelForMaskedLM.from_pretrained(folder / "base")
    model.bfloat16().save_pretrained(folder / "half")
    (folder / "text.txt").write_text("\n".join(["w1 w2 w3 w4", "w5 w6 w1 w2 w3"] * 20))
    return folder


def flags(place: Path, output_dir: Path, *more: str, base: str = "base", **changes: object) -> list[str]:
    options: dict[str, object] = {
        "model_name_or_path": place / base,
        "train_file": place / "text.txt",
        "output_dir": output_dir,
        "max_length": 12,
        "max_train_steps": 6,
        "checkpointing_steps": 3,
        "learning_rate": 1e-2,
        "lr_scheduler": "constant",
        "lora_rank": 4,
        "lora_dropout": 0.1,
        "report_to": "none",
    }
    return [*(f"--{name}={value}" for name, value in {**options, **changes}.items()), *more]


def test_a_run_that_is_stopped_goes_on_bit_for_bit_and_writes_adapters_alone(place: Path, tmp_path: Path) -> None:
    """With a moving average and dropout, of which the one is saved and the other draws."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["mdlm", *flags(place, whole, ema_decay=0.9)]) == 0
    assert main(["mdlm", *flags(place, parts, ema_decay=0.9, max_train_steps=3)]) == 0
    latest = "--resume_from_checkpoint=latest"
    (parts / "final").rename(tmp_path / "early")
    assert main(["mdlm", *flags(place, parts, latest, ema_decay=0.9)]) == 0
    files = {file.name for file in (whole / "final").iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "scheduler_config.json",
        "token_diffusion.json",
    } <= files
    assert not {"config.json", "model.safetensors"} & files
    ours, theirs, early = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (whole / "final", parts / "final", tmp_path / "early")
    )
    assert all(theirs[name].equal(tensor) for name, tensor in ours.items()) and ours.keys() == theirs.keys()
    assert any(not early[name].equal(tensor) for name, tensor in ours.items())
    named = json.loads((whole / "final" / "adapter_config.json").read_text())["target_modules"]
    assert named == sorted(named) and len(named) > 1, "as in any other process"
    card = (whole / "final" / "README.md").read_text()
    assert "LoRA adapters (rank 4, alpha 16, dropout 0.1;" in card and "convert --checkpoint_path" in card
    assert "library_name: peft" in card and "python -m server" not in card


def test_they_lower_the_bound_on_frozen_weights_of_their_own_type(place: Path, tmp_path: Path) -> None:
    config = parse("mdlm", flags(place, tmp_path, base="half", max_train_steps=30, gradient_checkpointing=True))
    assert isinstance(config, TrainingConfig)
    start = find_start(config)
    config = settled(config, start)
    run = Run(config, make_accelerator(config), load_corpus(config), start=start)
    frozen = {name: tensor.clone() for name, tensor in run.model.state_dict().items() if ".lora_" not in name}
    assert {tensor.dtype for tensor in frozen.values() if tensor.is_floating_point()} == {torch.bfloat16}
    first = run._optimize(next(iter(windows(run))))
    run.fit()
    last = run._optimize(next(iter(windows(run))))
    assert last.nelbo / last.num_tokens < 0.8 * first.nelbo / first.num_tokens
    assert all(run.model.state_dict()[name].equal(tensor) for name, tensor in frozen.items())
    assert {parameter.dtype for parameter in run.learner._parameters()} == {torch.float32}
    merged = merge_adapter("checkpoint_path", tmp_path / "checkpoint-30", dtype=torch.bfloat16)
    assert merged.dtype == torch.bfloat16


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_layers_that_share_their_weights_are_refused_as_merged_they_would_both_change(
    module: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = flags(place, tmp_path / "out", f"--lora_target_modules={module}", base="tied", max_length=8)
    write_llada(place / "tied", "llada-tied")
    assert main(["mdlm", *asked]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "lora_target_modules must be linear layers" in error and f"{module} are another layer's, too" in error
    peft.LoraConfig(target_modules=[module]).save_pretrained(str(tmp_path / "theirs"))  # others do make such
    with pytest.raises(ParameterError, match=f"the weights of .*{module} are another layer's, too"):
        merge_adapter("checkpoint_path", tmp_path / "theirs", str(place / "tied"))


def windows(run: Run) -> Iterator[list[dict[str, torch.Tensor]]]:
    for batch in run.feed.batches(0):
        yield [batch]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--lora_target_modules=nope"], "lora_target_modules must be linear layers that peft adapts in this network"),
        (["--lora_rank=0"], "lora_rank must be greater than 0"),
        (["--tokenizer_name={0}/other"], "be a model of the tokenizer's 95 token ids, not 45: adapters hold none"),
        (["--model_name_or_path={0}/body"], "hold all weights of its model with lora_rank"),
    ],
)
def test_what_cannot_be_adapted_is_one_line(
    more: list[str], complaint: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word_tokenizer(90).save_pretrained(place / "other")
    if not (place / "body").exists():
        model: Any = AutoModelForMaskedLM.from_pretrained(place / "base")
        model.bert.save_pretrained(place / "body")
        word_tokenizer(40).save_pretrained(place / "body")
    assert main(["mdlm", *flags(place, tmp_path, *(each.format(place) for each in more))]) == 2
    error = capsys.readouterr().err.splitlines()
    assert complaint in error[-1]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (["--lora_alpha=8"], "lora_alpha must come with lora_rank"),
        (["--lora_r=4", "--config_name=bert", "--tokenizer_name=t"], "config_name must be left out with lora_rank"),
        (["--use_peft"], "--use_peft is no flag here: use --lora_rank N"),
    ],
)
def test_flags_of_adapters_belong_together(
    asked: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mdlm", "--train_file=text.txt", *asked]) == 2
    assert complaint in capsys.readouterr().err
