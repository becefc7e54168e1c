"""Validation that chooses: the best checkpoint becomes final, patience ends a run, and neither forgets through a resume."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.workplaces import make_workplace
from token_diffusion.errors import ParameterError
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.evaluation.bound import ValidationBound
from trainer.output import journal
from trainer.output.checkpoints import saved_steps
from trainer.output.resume import read_facts
from trainer.run.best import Best
from trainer.run.train import Run, train

LINES = ["the cat sat on the mat", "a dog ran", "the dog sat on a mat"]
BOUNDS = {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.5, 10: 2.0}
LATEST = "--resume_from_checkpoint=latest"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workplace(tmp_path_factory.mktemp("best"), LINES * 10, vocab_size=280)


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The validations on the way find what BOUNDS says of their step; one thread, as the models are tiny."""
    validate = Run._validate

    def told(run: Run, num_times: int) -> ValidationBound | None:
        bound = validate(run, num_times)
        assert bound is not None
        return bound if num_times == 8 else ValidationBound(BOUNDS[run.step], 0.1, 1, 1, num_times)

    monkeypatch.setattr(Run, "_validate", told)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def flags(workplace: Path, output_dir: Path, *more: str) -> list[str]:
    options = {
        "train_file": workplace / "text.txt",
        "validation_file": workplace / "text.txt",
        "tokenizer_name": workplace / "tokenizer",
        "config_name": "bert",
        "config_overrides": "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32",
        "output_dir": output_dir,
        "max_length": 12,
        "learning_rate": 1e-2,
        "max_steps": 10,
        "save_steps": 2,
        "eval_steps": 2,
        "report_to": "none",
    }
    return [*(f"--{name}={value}" for name, value in options.items()), *more]


def configure(workplace: Path, output_dir: Path, *more: str) -> TrainingConfig:
    config = parse("mdlm", flags(workplace, output_dir, *more))
    assert isinstance(config, TrainingConfig)
    return config


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[name], second[name]) for name in second)


def test_the_best_remembers_its_step_and_counts_what_came_after() -> None:
    best = Best()
    for step, nelbo in BOUNDS.items():
        best.add(step, nelbo)
        assert (best.step, best.since) == {2: (2, 0), 4: (4, 0), 6: (4, 1), 8: (4, 2), 10: (10, 0)}[step]


@pytest.mark.parametrize("ema", [(), ("--ema_decay=0.5",)])
def test_final_is_the_best_checkpoint_which_no_limit_deletes(
    ema: tuple[str, ...], workplace: Path, tmp_path: Path
) -> None:
    more = ["--load_best_model_at_end", "--max_steps=8", "--save_total_limit=1", *ema]
    train(configure(workplace, tmp_path, *more))
    assert saved_steps(tmp_path) == [4, 8]
    assert same(tmp_path / "final", tmp_path / "checkpoint-4")
    assert not same(tmp_path / "final", tmp_path / "checkpoint-8")
    assert "of step 4, the best validation on the way" in (tmp_path / "final" / "README.md").read_text()


def test_patience_ends_a_run_and_a_resumed_one_does_not_go_on(
    workplace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = ["--early_stopping_patience=2", "--load_best_model_at_end"]
    train(configure(workplace, tmp_path / "run", *more))
    assert saved_steps(tmp_path / "run") == [2, 4, 6, 8]  # 10 would have been best, but it never got there
    assert "step 8: no better validation since step 4" in caplog.text
    assert same(tmp_path / "run" / "final", tmp_path / "run" / "checkpoint-4")
    before = weights(tmp_path / "run" / "final")
    shutil.rmtree(tmp_path / "run" / "final")
    train(configure(workplace, tmp_path / "run", *more, LATEST))
    assert saved_steps(tmp_path / "run") == [2, 4, 6, 8]
    after = weights(tmp_path / "run" / "final")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_resumed_run_remembers_the_best(workplace: Path, tmp_path: Path) -> None:
    more = ["--early_stopping_patience=2", "--load_best_model_at_end"]
    train(configure(workplace, tmp_path / "whole", *more))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for folder in ("checkpoint-8", "final"):
        shutil.rmtree(tmp_path / "cut" / folder)
    facts = read_facts(tmp_path / "cut" / "checkpoint-6")
    assert facts.best == {"step": 4, "nelbo": 3.0, "since": 1}
    train(configure(workplace, tmp_path / "cut", *more, LATEST))
    assert saved_steps(tmp_path / "cut") == [2, 4, 6, 8]
    for folder in ("checkpoint-8", "final"):
        assert same(tmp_path / "cut" / folder, tmp_path / "whole" / folder)
    history = [journal.read(tmp_path / run / "history.jsonl") for run in ("cut", "whole")]
    assert [record["step"] for record in history[0]] == [record["step"] for record in history[1]]


def test_what_would_change_the_choice_is_refused_on_resume(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--early_stopping_patience=2", "--load_best_model_at_end", "--max_steps=6"]
    train(configure(workplace, tmp_path / "run", *more))
    shutil.rmtree(tmp_path / "run" / "final")
    (tmp_path / "other.txt").write_text("a dog ran to the mat\n")
    run = flags(workplace, tmp_path / "run", *more, LATEST)
    for change, problem in (
        ("--eval_steps=4", "eval_steps must be 2 as in the run that wrote checkpoint-6, got 4"),
        ("--early_stopping_patience=3", "early_stopping_patience must be 2 as in the run that wrote checkpoint-6"),
        (f"--validation_file={tmp_path / 'other.txt'}", "validation_file must hold the same text as in the run"),
    ):
        assert main(["mdlm", *[flag for flag in run if flag.split("=")[0] != change.split("=")[0]], change]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(problem)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    assert main(["mdlm", *run]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("resume_from_checkpoint must have checkpoint-4, the best so far, beside it in output_dir")


def test_there_must_be_text_to_choose_by(workplace: Path, tmp_path: Path) -> None:
    config = configure(workplace, tmp_path, "--early_stopping_patience=2").model_copy(update={"validation_file": []})
    with pytest.raises(ParameterError, match="validation_file must be given: which step is best"):
        train(config)
