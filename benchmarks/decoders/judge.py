"""Trains a judge: a small causal language model whose perplexity of samples says how much they read like its text.

    python -m benchmarks.decoders.judge --train_file train.txt [...] --validation_file valid.txt --output_dir judge

GPT-2's network from random weights, and a byte-level BPE tokenizer of the same text unless `--tokenizer_name` names another.
Each file is one document; windows of `--context` tokens begin with the tokenizer's BOS, wherever in a document they begin, as
the windows of samples do. The best weights on the validation text are kept, and training ends when they have not become better
for `--patience` evaluations. The same command again goes on from the last evaluation. The folder's card and `judge.json` say
what the judge makes of text that it has not seen, and `judge.json` also what it makes of each `--test_file`, which has no say
in the weights: so it is the autoregressive baseline beside a diffusion model of the same tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoTokenizer,
    EarlyStoppingCallback,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from token_diffusion.diffusion.values import check_int
from token_diffusion.errors import ParameterError, in_short
from token_diffusion.networks.weights.reading import quiet
from trainer.data.corpus import read_documents
from trainer.data.tokenizer import build_tokenizer
from trainer.evaluation.quality import load_judge
from trainer.output.files import check_output_dir, write_whole

from .. import command
from .held_out import bos_of, held_out, rows_of

PROGRAM = "benchmarks.decoders.judge"

CHECKPOINTS, SETTINGS, FIGURES = "checkpoints", "settings.json", "judge.json"

CARD = """# Judge `{name}`

A causal language model (GPT-2's network, {num_parameters:,} parameters, {vocab_size:,} tokens, {context} positions) trained from
random weights to judge samples: not a model to write with, and its perplexities are comparable only with each other.

| | |
|---|---|
| Training text | {train_files} |
| Validation text | {validation_file}: {num_tokens:,} tokens, {num_bytes:,} bytes |
| Steps | {best_step:,} of {steps:,}, the best on the validation text, {batch_size} windows of {context} tokens each |
| Validation perplexity a token | {perplexity:.2f} |
| Validation bits a byte | {bits_per_byte:.4f} |

Perplexities a token are those of this tokenizer; bits a byte are comparable across tokenizers. The weights were chosen on the
validation text, so that its figures are a little too good.
"""


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Stretches of a text, all of one length, each after a BOS."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        longest = max(len(row) for row in rows)
        self.rows = [torch.as_tensor(row, dtype=torch.int64) for row in rows if len(row) == longest]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def make_tokenizer(asked: argparse.Namespace) -> PreTrainedTokenizerBase:
    """That of the folder if there is one from before, the named one, or a new one of the training text."""
    place = asked.output_dir if (asked.output_dir / "tokenizer_config.json").exists() else asked.tokenizer_name
    if place is None:
        documents = read_documents("train_file", asked.train_file, packing=True)
        return build_tokenizer(documents, asked.vocab_size)
    try:
        with quiet():
            found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(place), local_files_only=True)
            return found
    except Exception as error:  # whatever transformers raises, there is no tokenizer for us
        raise ParameterError("tokenizer_name", f"hold a tokenizer ({in_short(error)})", str(place)) from error


def make_model(asked: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> GPT2LMHeadModel:
    """Random weights, the same for a seed."""
    set_seed(asked.seed)
    bos = bos_of(tokenizer)
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), asked.dropout)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=max(tokenizer.get_vocab().values()) + 1,
            n_positions=asked.context,
            n_embd=asked.hidden_size,
            n_layer=asked.num_layers,
            n_head=max(1, asked.hidden_size // 64),
            bos_token_id=bos,
            eos_token_id=tokenizer.eos_token_id,
            use_cache=False,
            **drop,
        )
    )


def arguments_of(asked: argparse.Namespace) -> TrainingArguments:
    """transformers' own: linear warm-up, cosine, AdamW, the best evaluation kept."""
    return TrainingArguments(
        output_dir=str(asked.output_dir / CHECKPOINTS),
        max_steps=asked.max_train_steps,
        per_device_train_batch_size=asked.batch_size,
        per_device_eval_batch_size=asked.batch_size,
        learning_rate=asked.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(200, asked.max_train_steps // 10),
        weight_decay=0.1,
        adam_beta2=0.98,
        eval_strategy="steps",
        eval_steps=asked.eval_steps,
        save_strategy="steps",
        save_steps=asked.eval_steps,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        logging_steps=min(50, asked.eval_steps),
        use_cpu=not torch.cuda.is_available(),
        bf16=asked.bf16,
        seed=asked.seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def train(asked: argparse.Namespace) -> dict[str, Any]:
    """Trains, or goes on with it, and writes the folder; its figures.

    A run that has ended is left as it is; further text is only measured. Raises `ParameterError`.
    """
    check_output_dir(asked.output_dir)
    check_ranges(asked)
    settings, ended = settings_of(asked), asked.output_dir / FIGURES
    if ended.exists():
        figures: dict[str, Any] = json.loads(ended.read_text(encoding="utf-8"))
        known = {path.name for path in asked.test_file} <= figures.get("tests", {}).keys()
        return figures if known else finish(asked, {name: figures[name] for name in ("steps", "best_step")})
    tokenizer = make_tokenizer(asked)
    training, validation = (
        rows_of(tokenizer, flag, files, asked.context)
        for flag, files in (("train_file", asked.train_file), ("validation_file", [asked.validation_file]))
    )
    tokenizer.save_pretrained(asked.output_dir)
    write_whole(asked.output_dir / SETTINGS, json.dumps(settings, indent=2) + "\n")
    trainer = Trainer(
        model=make_model(asked, tokenizer),
        args=arguments_of(asked),
        train_dataset=Windows(training),
        eval_dataset=Windows(validation),
        callbacks=[EarlyStoppingCallback(asked.patience)],
    )
    before = get_last_checkpoint(asked.output_dir / CHECKPOINTS) if (asked.output_dir / CHECKPOINTS).is_dir() else None
    trainer.train(resume_from_checkpoint=before)
    trainer.save_model(str(asked.output_dir))
    state = trainer.state
    best = int((state.best_model_checkpoint or f"-{state.global_step}").rpartition("-")[2])
    return finish(asked, {"steps": state.global_step, "best_step": best})


def check_ranges(asked: argparse.Namespace) -> None:
    """Raises `ParameterError` for a number that nothing can be done with."""
    least = {"vocab_size": 300, "context": 2, "hidden_size": 1, "num_layers": 1, "max_train_steps": 1, "batch_size": 1}
    for name, low in {**least, "eval_steps": 1, "patience": 1, "seed": 0}.items():
        check_int(name, getattr(asked, name), low, 2**31)
    if not 0 <= asked.dropout < 1:
        raise ParameterError("dropout", "be in [0, 1)", asked.dropout)
    if not asked.learning_rate > 0:
        raise ParameterError("learning_rate", "be > 0", asked.learning_rate)


def settings_of(asked: argparse.Namespace) -> dict[str, Any]:
    """What was asked for; a run goes on as it began. Raises `ParameterError` for another one in the same folder."""
    settings = {name: value for name, value in vars(asked).items() if name != "output_dir"}
    settings |= {"train_file": [path.name for path in asked.train_file], "validation_file": asked.validation_file.name}
    del settings["test_file"]  # has no part in the run
    settings["tokenizer_name"] = asked.tokenizer_name and asked.tokenizer_name.name
    path = asked.output_dir / SETTINGS
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    for name, value in settings.items():
        if before.get(name) != value:
            rule = f"be {before.get(name)!r}, as in the run that {asked.output_dir.name} holds"
            raise ParameterError(name, rule, value)
    return settings


def finish(asked: argparse.Namespace, run: dict[str, Any]) -> dict[str, Any]:
    """The figures of a trained folder, into its card and `judge.json`."""
    judge = load_judge(str(asked.output_dir))
    figures = {
        "name": judge.name,
        "num_parameters": judge.model.num_parameters(),
        "vocab_size": judge.model.config.vocab_size,
        "context": judge.context,
        "train_files": [path.parent.name + "/" + path.name for path in asked.train_file],
        "validation_file": asked.validation_file.parent.name + "/" + asked.validation_file.name,
        "batch_size": asked.batch_size,
        **run,
        **held_out(judge, "validation_file", asked.validation_file),
        "tests": {path.name: held_out(judge, "test_file", path) for path in asked.test_file},
    }
    write_whole(asked.output_dir / FIGURES, json.dumps(figures, indent=2) + "\n")
    card = CARD.format(**figures | {"train_files": ", ".join(figures["train_files"])})
    write_whole(asked.output_dir / "README.md", card)
    return figures


def make_parser() -> argparse.ArgumentParser:
    parser = command.make_parser(PROGRAM, __doc__)
    parser.add_argument("--train_file", nargs="+", type=Path, required=True)
    parser.add_argument("--validation_file", type=Path, required=True, help="text that is not trained on")
    parser.add_argument("--test_file", nargs="+", type=Path, default=[], help="more such text, only measured")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--tokenizer_name", type=Path, help="a folder with a tokenizer, instead of a new one")
    parser.add_argument("--vocab_size", type=int, default=4096, help="of a new tokenizer")
    parser.add_argument("--context", type=int, default=256, help="positions")
    parser.add_argument("--hidden_size", type=int, default=192)
    parser.add_argument("--num_layers", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--max_train_steps", type=int, default=4000)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--eval_steps", type=int, default=200, help="also how often what was trained is saved")
    parser.add_argument("--patience", type=int, default=4, help="evaluations without a better one after which it ends")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Prints the figures as JSON."""
    asked = make_parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    print(json.dumps(train(asked), indent=2))
    return 0


if __name__ == "__main__":
    command.run(PROGRAM, main)
