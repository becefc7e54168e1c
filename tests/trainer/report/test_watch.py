"""What can be watched while training: history and sample texts, in files, in TensorBoard, in the card; through a resume."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType
from transformers import AutoModelForMaskedLM

from tests.workplaces import make_workplace
from token_diffusion.errors import ParameterError
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.output import journal
from trainer.report import curve
from trainer.report.watch import Watch
from trainer.run.train import train

LINES = ["the cat sat on the mat", "a dog ran", "the dog sat on a mat"]
SIZES = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workplace(tmp_path_factory.mktemp("watch"), LINES * 10, vocab_size=280)


def flags(workplace: Path, output_dir: Path, *more: str) -> list[str]:
    options = {
        "train_file": workplace / "text.txt",
        "validation_file": workplace / "text.txt",
        "tokenizer_name": workplace / "tokenizer",
        "config_name": "bert",
        "config_overrides": SIZES,
        "output_dir": output_dir,
        "max_length": 12,
        "learning_rate": 1e-2,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "max_train_steps": 6,
        "logging_steps": 2,
        "checkpointing_steps": 3,
    }
    return [*(f"--{name}={value}" for name, value in options.items()), *more]


def configure(*arguments: str, command: str = "mdlm") -> TrainingConfig:
    config = parse(command, list(arguments))
    assert isinstance(config, TrainingConfig)
    return config


@pytest.mark.parametrize("command", ["mdlm", "udlm", "hybrid"])
def test_samples_come_on_time_and_change_nothing(command: str, workplace: Path, tmp_path: Path) -> None:
    watched, alone = tmp_path / "watched", tmp_path / "alone"
    watch = ["--num_validation_samples=2", "--sample_steps=4", "--report_to=tensorboard", "--ema_decay=0.5"]
    train(configure(*flags(workplace, watched, *watch), command=command))
    train(configure(*flags(workplace, alone, "--ema_decay=0.5"), command=command))
    records = journal.read(watched / "samples.jsonl")
    assert [(record["step"], record["seq_len"], len(record["samples"])) for record in records] == [
        (4, 12, 2),
        (6, 12, 2),
    ]
    assert all(text for record in records for text in record["samples"])
    assert not (alone / "samples.jsonl").exists()
    expected, found = (AutoModelForMaskedLM.from_pretrained(each / "final").state_dict() for each in (alone, watched))
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    (events,) = (watched / "token-diffusion").glob("events.out.tfevents.*")
    reader = import_module("tensorboard.backend.event_processing.event_accumulator")
    tracked = reader.EventAccumulator(str(events)).Reload()
    tags = sorted(tracked.Tags()["tensors"])
    assert tags == ["samples/0/text_summary", "samples/1/text_summary"]
    shown = [event.tensor_proto.string_val[0].decode() for event in tracked.Tensors(tags[0])]
    assert [text.split() for text in shown] == [record["samples"][0].split() for record in records]
    card = (watched / "final" / "README.md").read_text()
    assert "After 4 steps:" in card and "After 6 steps:" in card
    assert "## Samples" not in (alone / "final" / "README.md").read_text()


def test_the_history_is_in_every_folder_and_outlives_a_resume(workplace: Path, tmp_path: Path) -> None:
    """A run that goes on from a checkpoint, even elsewhere, tells what the whole run would have told."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    more = ["--eval_steps=2", "--num_validation_samples=1", "--sample_steps=2"]
    train(configure(*flags(workplace, straight, *more)))
    history = journal.read(straight / "history.jsonl")
    assert [record["step"] for record in history] == [2, 2, 4, 4, 6, 6]
    assert [sorted(record) for record in history[:2]] == [
        ["lr", "nelbo", "num_tokens", "step"],
        ["num_times", "step", "validation_error", "validation_nelbo", "weights"],
    ]
    assert [record["num_times"] for record in history[1::2]] == [2, 2, 8]
    assert journal.read(straight / "checkpoint-3" / "history.jsonl") == history[:2]
    assert journal.read(straight / "final" / "history.jsonl") == history

    train(configure(*flags(workplace, resumed, *more), f"--resume_from_checkpoint={straight / 'checkpoint-3'}"))
    assert journal.read(resumed / "history.jsonl") == history
    assert [record["step"] for record in journal.read(resumed / "samples.jsonl")] == [4, 6]
    card = (resumed / "final" / "README.md").read_text()
    assert curve.table(history) in card and f"from {history[0]['nelbo']:.4f} nats a token" in card


def test_the_picture_lies_beside_the_card_that_shows_it(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve, "find_spec", lambda name: None)
    train(configure(*flags(workplace, tmp_path / "without")))
    assert not (tmp_path / "without" / "final" / curve.FILE_NAME).exists()
    assert curve.FILE_NAME not in (tmp_path / "without" / "final" / "README.md").read_text()
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    train(configure(*flags(workplace, tmp_path / "with")))
    for folder in ("checkpoint-3", "final"):
        assert (tmp_path / "with" / folder / curve.FILE_NAME).read_bytes().startswith(b"\x89PNG")
        assert f"]({curve.FILE_NAME})" in (tmp_path / "with" / folder / "README.md").read_text()


def test_no_card_names_this_machine(workplace: Path, tmp_path: Path) -> None:
    assert main(["mdlm", *flags(workplace, tmp_path / "run", "--max_train_steps=1")]) == 0
    for file in (tmp_path / "run" / "final").iterdir():
        if file.suffix in (".md", ".json", ".jsonl"):
            assert str(tmp_path.parent) not in file.read_text(), file.name
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    assert "--train_file=text.txt" in card and "Code: Token Diffusion, " in card


def test_steps_without_samples_are_a_mistake(workplace: Path, tmp_path: Path) -> None:
    assert main(["mdlm", *flags(workplace, tmp_path, "--sample_steps=2")]) == 2


def test_sharded_weights_cannot_be_sampled_from(workplace: Path, tmp_path: Path) -> None:
    sharded: Any = SimpleNamespace(distributed_type=DistributedType.FSDP, is_main_process=True)
    with pytest.raises(ParameterError, match="num_validation_samples must be 0 where no process holds all"):
        Watch(configure(*flags(workplace, tmp_path, "--num_validation_samples=1")), sharded)
    Watch(configure(*flags(workplace, tmp_path)), sharded)


def test_a_hub_that_is_not_there_is_told_before_training(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.output.hub.get_token", lambda: None)
    with pytest.raises(ParameterError, match="hub_token must be given"):
        train(configure(*flags(workplace, tmp_path, "--push_to_hub")))
    assert not (tmp_path / "history.jsonl").exists()


def test_records_are_json_lines(workplace: Path, tmp_path: Path) -> None:
    train(configure(*flags(workplace, tmp_path)))
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 6]
