"""Flags by the names that run_mlm.py and TrainingArguments give them, with hyphens, or misspelt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic_settings import SettingsError

from trainer.__main__ import COMMANDS, parse
from trainer.command_line import spelled
from trainer.command_line.spelling import ABSENT, OTHER_NAMES, SWITCHES
from trainer.config import MDLMConfig


def mdlm(*flags: str) -> list[str]:
    return spelled(MDLMConfig, flags)


def test_every_name_leads_to_a_flag_and_none_hides_one() -> None:
    fields = {field for settings in COMMANDS.values() for field in settings.model_fields}
    assert set(OTHER_NAMES.values()) | {field for field, _ in SWITCHES.values()} <= fields
    assert not fields & {*OTHER_NAMES, *SWITCHES, *ABSENT}


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("--max_steps 5", "--max_train_steps 5"),
        ("--max-train-steps=5", "--max_train_steps=5"),
        ("--save-total-limit 2 --packing", "--checkpoints_total_limit 2 --packing"),
        ("--train-file a b --warmup_ratio 0.1", "--train_file a b --lr_warmup_ratio 0.1"),
        ("--bf16", "--mixed_precision=bf16"),
        ("--fp16 True", "--mixed_precision=fp16"),
        ("--bf16 False", ""),
        ("--packing true --streaming=False --no-torch_compile", "--packing --no-streaming --no-torch_compile"),
        ("--no_packing", "--no-packing"),
        ("--line_by_line", "--no-packing"),
        ("--weight_decay -1 --help", "--weight_decay=-1 --help"),
        ("--learning_rate -1e-3", "--learning_rate=-1e-3"),
        ("--seed 1 --seed 2", "--seed 1 --seed 2"),
        ("--config_overrides=a=1,b-c=2", "--config_overrides=a=1,b-c=2"),
        ("--save_steps 5 --checkpointing_steps=5", "--checkpointing_steps 5 --checkpointing_steps=5"),
    ],
)
def test_other_spellings(typed: str, ours: str) -> None:
    assert mdlm(*typed.split()) == ours.split()
    assert mdlm(*ours.split()) == ours.split()


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("--mlm_probability 0.15", "--mlm_probability is no flag here: the share of masked tokens is drawn anew"),
        ("--do_train", "--do_train is no flag here: training is what the command does"),
        ("--token x", "--token is no flag here: use HF_TOKEN"),
        ("--learning_rat 1", "--learning_rat is no flag of this command; did you mean --learning_rate?"),
        ("--warmup_step 1", "--warmup_step is no flag of this command; did you mean --warmup_steps?"),
        ("--no_cuda", "--no_cuda is no flag here: use accelerate launch --cpu"),
        ("--xyzzy", "--xyzzy is no flag of this command"),
        ("--bf16 --fp16", "mixed_precision must be given once, got --bf16 and --fp16"),
        ("--save_steps 5 --checkpointing_steps 6", "checkpointing_steps must be given once, got --save_steps and"),
        ("--packing maybe", "packing must be true or false, got 'maybe'"),
        ("--no_seed 5", "--no_seed is no flag: seed takes a value"),
    ],
)
def test_what_is_no_flag_says_so_and_what_is_near(typed: str, problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        mdlm(*typed.split())
    assert str(refused.value).startswith(problem)


def test_the_names_work_in_a_command() -> None:
    flags = (
        "--train_file a --max_seq_length 9 --lr_scheduler_type linear --report_to tensorboard wandb --lr 0.5 --bf16"
    )
    config = parse("mdlm", flags.split())
    assert isinstance(config, MDLMConfig)
    assert (config.max_length, config.lr_scheduler, config.learning_rate) == (9, "linear", 0.5)
    assert config.trackers == ["tensorboard", "wandb"] and config.mixed_precision == "bf16"


@pytest.mark.parametrize(
    "name",
    [
        'a "b".txt',
        "a\\b",
        "a\\",
        '"',
        "'q'",
        "1",
        "null",
        "a,b",
        '[x"]',
        '{"a',
        "a\tb",
        "%41=+",
        "ü 猫",
        "\udcff",
        " a",
    ],
)
def test_names_are_taken_as_they_are_typed(name: str) -> None:
    """A list's words go through pydantic-settings' own grammar, which has quotation marks, commas and numbers."""
    config = parse("evaluate", ["--checkpoint_path", "a", "--validation_file", name, "b", f"--validation_file={name}"])
    assert [str(path) for path in config.validation_file] == [name, "b", name]  # type: ignore[attr-defined]


def test_help_and_mistakes_load_no_network_library() -> None:
    """That is what they take their time from; a fresh process, as this one has loaded everything."""
    program = (
        "import sys\nfrom trainer.__main__ import main\n"
        "assert main(['mdlm', '--max_step', '5']) == 2\n"
        "try: main(['mdlm', '--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "trainer.config" in loaded
    assert not loaded & {"torch", "transformers", "accelerate", "datasets", "diffusers", "numpy"}
    assert "did you mean --max_steps?" in done.stderr


def test_help_says_kinds_in_words_and_groups_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("mdlm", ["--help"])
    shown = capsys.readouterr().out
    for part in (
        "usage: python -m trainer mdlm [flags]",
        "\nThe optimizer:\n",
        "--output_dir FOLDER",
        "--max_length INT",
    ):
        assert part in shown
    assert "--train_file FILE [FILE ...]" in shown and "--hub_token TOKEN" in shown
    assert "null" not in shown and "lambda" not in shown
