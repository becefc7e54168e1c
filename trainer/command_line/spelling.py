"""Flags as people type them: with hyphens, by the names of transformers' scripts, misspelt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from pydantic_settings import SettingsError

from .settings import CommandLine

OTHER_NAMES = {
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "max_steps": "max_train_steps",
    "max_seq_length": "max_length",
    "text_column_name": "text_column",
    "model_type": "config_name",
    "revision": "model_revision",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "warmup_steps": "lr_warmup_steps",
    "num_warmup_steps": "lr_warmup_steps",
    "warmup_ratio": "lr_warmup_ratio",
    "save_steps": "checkpointing_steps",
    "save_total_limit": "checkpoints_total_limit",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "hub_license": "license",
    "hub_language": "language",
    "lora_r": "lora_rank",
}
"""What `run_mlm.py`, `TrainingArguments` and TRL call a flag of ours."""

SWITCHES = {
    "bf16": ("mixed_precision", "--mixed_precision=bf16"),
    "fp16": ("mixed_precision", "--mixed_precision=fp16"),
    "line_by_line": ("packing", "--no-packing"),
}
"""Their switches: which of our flags it is, and how."""

ABSENT = {
    "mlm_probability": "the share of masked tokens is drawn anew for each example: that is what diffusion is",
    "pad_to_max_length": "a batch is padded to its longest example",
    "do_train": "training is what the command does",
    "do_eval": "use --validation_file or --validation_split_percentage, and --eval_steps",
    "do_predict": "use `python -m token_diffusion sample`",
    "eval_strategy": "use --eval_steps N, or nothing to validate at the end only",
    "evaluation_strategy": "use --eval_steps N, or nothing to validate at the end only",
    "save_strategy": "use --checkpointing_steps N",
    "logging_strategy": "use --logging_steps N",
    "logging_dir": "the files of TensorBoard are written into --output_dir",
    "run_name": "a tracker's own variable names a run, such as WANDB_NAME",
    "dataloader_drop_last": "every step has as many examples; one epoch follows the other without a gap",
    "overwrite_cache": "what is cached is found by the text itself, so it never is out of date",
    "use_fast_tokenizer": "tokenizers are the fast ones wherever there is one",
    "use_slow_tokenizer": "tokenizers are the fast ones wherever there is one",
    "trust_remote_code": "no code of a checkpoint is ever run",
    "token": "use HF_TOKEN or `hf auth login` to read, --hub_token to push",
    "use_auth_token": "use HF_TOKEN or `hf auth login` to read, --hub_token to push",
    "metric_for_best_model": "the best model is the one of the lowest validation bound",
    "greater_is_better": "the best model is the one of the lowest validation bound",
    "hub_strategy": "what is pushed is final/, at the end",
    "dtype": "weights are float32 in training; use --mixed_precision, and --save_dtype for final/",
    "torch_dtype": "weights are float32 in training; use --mixed_precision, and --save_dtype for final/",
    "completion_only_loss": "prompts are never learnt by sft, and there are none elsewhere",
    "use_peft": "use --lora_rank N",
    "load_in_4bit": "adapters train on weights in their own type; none is quantised",
    "load_in_8bit": "adapters train on weights in their own type; none is quantised",
    "deepspeed": "use FSDP to shard: accelerate launch --config_file trainer/configs/fsdp.yaml",
    "fsdp": "use accelerate launch --config_file trainer/configs/fsdp.yaml",
    "use_cpu": "use accelerate launch --cpu, or CUDA_VISIBLE_DEVICES= to hide the devices",
    "no_cuda": "use accelerate launch --cpu, or CUDA_VISIBLE_DEVICES= to hide the devices",
    "data_seed": "use --seed: the order of the text follows from it, too",
    "disable_tqdm": "no bar is drawn where stderr is no terminal",
    "remove_unused_columns": "no column is read but --text_column",
    "auto_find_batch_size": "use --per_device_train_batch_size and --gradient_accumulation_steps",
    "batch_size": "use --per_device_train_batch_size",
    "train_batch_size": "use --per_device_train_batch_size",
}
"""Flags of theirs that do not exist here, and why, or what to use."""

TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Flag(NamedTuple):
    """A flag as it was typed, without hyphens in its name, and the values behind it."""

    name: str
    values: list[str]
    joined: bool

    @classmethod
    def of(cls, typed: str, values: Sequence[str]) -> Flag:
        name, equals, value = typed.removeprefix("--").partition("=")
        return cls(name.replace("-", "_"), [value, *values] if equals else [*values], bool(equals))

    def words(self, name: str) -> list[str]:
        """What says the same by the name of a field."""
        # argparse takes a value alone that begins with a hyphen for a flag.
        joined = self.joined or (len(self.values) == 1 and self.values[0].startswith("-"))
        return [f"--{name}={self.values[0]}", *self.values[1:]] if joined else [f"--{name}", *self.values]

    @property
    def truth(self) -> bool:
        """Of a switch: True alone, else what its value says. Raises `SettingsError` for another value."""
        value = " ".join(self.values) or "true"
        if value.lower() not in TRUTH:
            raise SettingsError(f"{self.name} must be true or false, got {value!r}")
        return TRUTH[value.lower()]


def spelled(settings: type[CommandLine], typed: Sequence[str]) -> list[str]:
    """The flags by the names of the fields of `settings`. Raises `SettingsError` for what is none of them."""
    found: list[str] = []
    given: dict[str, tuple[str, str]] = {}
    for first, *values in _grouped(typed):
        if not first.startswith("--") or first == "--help":
            found += [first, *values]
            continue
        flag = Flag.of(first, values)
        field, words = _ours(settings, flag)
        meant = " ".join(words).replace("=", " ", 1)
        name, before = given.setdefault(field, (flag.name, meant))
        if name != flag.name and before != meant:  # of one name the last word counts, as ever
            raise SettingsError(f"{field} must be given once, got --{name} and --{flag.name}")
        found += words
    return found


def _grouped(typed: Sequence[str]) -> list[list[str]]:
    """Each flag with the values behind it."""
    groups: list[list[str]] = []
    for word in typed:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def _ours(settings: type[CommandLine], flag: Flag) -> tuple[str, list[str]]:
    """The field that a flag means, and the words that say so."""
    fields = settings.model_fields
    positive = flag.name in fields or not flag.name.startswith("no_")
    name = flag.name if positive else flag.name.removeprefix("no_")
    if name not in fields:
        name = OTHER_NAMES.get(name, name)
    if name in SWITCHES and SWITCHES[name][0] in fields:
        field, word = SWITCHES[name]
        return field, [word] if flag.truth == positive else []
    if name not in fields:
        raise SettingsError(_unknown(flag.name, fields))
    if fields[name].annotation is bool:
        return name, [f"--{name}" if flag.truth == positive else f"--no-{name}"]
    if not positive:
        raise SettingsError(f"--no_{name} is no flag: {name} takes a value")
    return name, flag.words(name)


def _unknown(name: str, fields: Iterable[str]) -> str:
    if name in ABSENT:
        return f"--{name} is no flag here: {ABSENT[name]}"
    known = [*fields, *(other for other, ours in OTHER_NAMES.items() if ours in fields), *SWITCHES]
    close = get_close_matches(name, known, 1, cutoff=0.7)
    return f"--{name} is no flag of this command" + (f"; did you mean --{close[0]}?" if close else "")
