"""Steps that follow from the size of the text, and rules between flags."""

from __future__ import annotations

import pytest

from trainer.__main__ import main, parse
from trainer.config import TrainingConfig


def configure(flags: str) -> TrainingConfig:
    config = parse("mdlm", ["--train_file", "a", *flags.split()])
    assert isinstance(config, TrainingConfig)
    return config


@pytest.mark.parametrize(
    ("flags", "steps", "warmup"),
    [
        ("", 1000, 100),
        ("--num_train_epochs 3", 38, 100),  # 3 · 100 examples in windows of 8
        ("--num_train_epochs 0.5 --warmup_ratio 0.25", 7, 2),
        ("--num_train_epochs 3 --max_train_steps 5 --warmup_steps 2", 5, 2),
        ("--max_steps 50 --warmup_ratio 0.1", 50, 5),
        ("--num_train_epochs 0.001", 1, 100),
    ],
)
def test_epochs_and_the_share_of_warm_up_come_to_steps(flags: str, steps: int, warmup: int) -> None:
    config = configure(flags).with_steps(num_sequences=100, window=8)
    assert (config.max_train_steps, config.lr_warmup_steps) == (steps, warmup)
    assert not config.counts_epochs and config.with_steps(100, 8) == config


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("--num_train_epochs 0", "num_train_epochs must be greater than 0, got '0'"),
        ("--num_train_epochs inf", "num_train_epochs must be a finite number, got 'inf'"),
        (
            "--streaming --num_train_epochs 1",
            "num_train_epochs must be left out with streaming, which does not know its end, got 1.0",
        ),
        (
            "--warmup_ratio 0.1 --warmup_steps 5",
            "lr_warmup_ratio must be left out when lr_warmup_steps is given, got 0.1",
        ),
        ("--early_stopping_patience 2", "eval_steps must be given with early_stopping_patience, got 0"),
        (
            "--load_best_model_at_end --eval_steps 5",
            "eval_steps must be a multiple of checkpointing_steps (500) with load_best_model_at_end, got 5",
        ),
        ("--optim adafactor --adam_beta1 0.5", "adam_beta1 must be left out with adafactor, got 0.5"),
        ("--report_to none wandb", "report_to must be none alone, or trackers, got ['none', 'wandb']"),
        (
            "--streaming --max_steps 1 --max_train_samples 5",
            "max_train_samples must be left out with streaming, got 5",
        ),
    ],
)
def test_rules_between_flags(flags: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mdlm", "--train_file", "a", *flags.split()]) == 2
    assert capsys.readouterr().err.splitlines() == [problem]


def test_validation_that_chooses_must_stay_as_it_was() -> None:
    free = configure("").free_on_resume
    assert {"eval_steps", "checkpointing_steps", "cache_dir"} <= free
    choosing = configure("--early_stopping_patience 2 --eval_steps 5").free_on_resume
    assert free - choosing == {"eval_steps", "checkpointing_steps", "max_eval_samples", "per_device_eval_batch_size"}
