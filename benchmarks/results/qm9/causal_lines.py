"""The autoregressive baseline of texts that are a line each: a small GPT-2 from random weights, its likelihood, its samples.

    python -m benchmarks.results.qm9.causal_lines --train_file train.txt --validation_file test.txt --tokenizer_name smiles \\
        --max_length 32 --num_samples 1024 --output_dir ar

Each line stands between the tokenizer's first and its end token, so it learns where lines end as it learns all else. It is
trained by the Trainer of transformers with the optimizer of the diffusion models beside it, and sampled at temperature 1.
Prints JSON; its samples are as those of `token_diffusion sample --json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from token_diffusion.facts import Frame
from token_diffusion.text import decode
from trainer.data.corpus import read_documents
from trainer.data.sequences import tokenize
from trainer.evaluation.bound import Estimate

from ... import command
from ..estimates import mean

PROGRAM = "benchmarks.results.qm9.causal_lines"

AT_ONCE = 256
IGNORED = -100
"""The label of what is not learnt."""


def rows_of(tokenizer: PreTrainedTokenizerBase, flag: str, file: Path, max_length: int) -> list[Tensor]:
    """Each line's tokens between its frame's, int64. Raises `ParameterError` for a file that cannot be read."""
    frame = Frame((tokenizer.bos_token_id,), (tokenizer.eos_token_id,))
    lines = read_documents(flag, [file], packing=False)
    found = tokenize(tokenizer, lines, flag=flag, packing=False, max_length=max_length, frame=frame)
    return [torch.from_numpy(row).long() for row in found.ids]


def padded(rows: Sequence[Tensor], pad: int) -> dict[str, Tensor]:
    """A batch [B, L], in which what is behind a row is not learnt."""
    inputs = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=pad)
    labels = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=IGNORED)
    return {"input_ids": inputs, "labels": labels}


def make_model(asked: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> GPT2LMHeadModel:
    """Random weights, the same for a seed; no dropout, as the diffusion models have none."""
    set_seed(asked.seed)
    sizes: dict[str, Any] = {"n_embd": asked.hidden_size, "n_layer": asked.num_layers, "n_head": asked.num_heads}
    drop: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=asked.max_length, **sizes, **drop, **ends)
    )


def train(asked: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> GPT2LMHeadModel:
    """The trained network, saved to `output_dir`; read from there if it was trained before."""
    if (asked.output_dir / "config.json").exists():
        return GPT2LMHeadModel.from_pretrained(asked.output_dir)
    rows = rows_of(tokenizer, "train_file", asked.train_file, asked.max_length)
    model = make_model(asked, tokenizer)
    arguments = TrainingArguments(
        output_dir=str(asked.output_dir),
        max_steps=asked.max_train_steps,
        per_device_train_batch_size=asked.batch_size,
        learning_rate=asked.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=asked.warmup_steps,
        weight_decay=0.01,
        adam_beta2=0.98,
        bf16=asked.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=asked.seed,
        save_strategy="no",
        logging_steps=100,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows,
        data_collator=lambda batch: padded(batch, int(tokenizer.pad_token_id)),
    )
    with redirect_stdout(sys.stderr):  # it prints its logs; stdout is for the figures
        trainer.train()
    model.save_pretrained(asked.output_dir)
    tokenizer.save_pretrained(asked.output_dir)
    return model


@torch.no_grad()
def nats(model: GPT2LMHeadModel, rows: Sequence[Tensor], pad: int) -> Estimate:
    """-log p of a line and its end, in nats, the mean over lines."""
    sums: list[float] = []
    for start in range(0, len(rows), AT_ONCE):
        batch = padded(rows[start : start + AT_ONCE], pad)
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1].float()
        each = F.cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:], ignore_index=IGNORED, reduction="none")
        sums += each.sum(dim=1).tolist()
    return mean(sums)


@torch.no_grad()
def samples(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, asked: argparse.Namespace) -> list[str]:
    """Lines drawn token by token at temperature 1; one without an end in `max_length` tokens is as long as that."""
    set_seed(asked.seed)
    rows: list[list[int]] = []
    while len(rows) < asked.num_samples:
        count = min(AT_ONCE, asked.num_samples - len(rows))
        start = torch.full((count, 1), int(tokenizer.bos_token_id), device=model.device)
        options: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_length": asked.max_length}
        drawn = model.generate(start, attention_mask=start.ne(-1), pad_token_id=tokenizer.pad_token_id, **options)
        rows += drawn.tolist()
    return [decode(tokenizer, row) for row in rows]


def make_parser() -> argparse.ArgumentParser:
    parser = command.make_parser(PROGRAM, __doc__)
    parser.add_argument("--train_file", type=Path, required=True)
    parser.add_argument("--validation_file", type=Path, required=True, help="lines whose likelihood is measured")
    parser.add_argument("--tokenizer_name", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--max_length", type=int, default=32, help="tokens, first and end token among them")
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--num_layers", type=int, default=6)
    parser.add_argument("--num_heads", type=int, default=4)
    parser.add_argument("--max_train_steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--warmup_steps", type=int, default=100)
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    parser.add_argument("--num_samples", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Trains, measures, samples; prints JSON."""
    asked = make_parser().parse_args(arguments)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(asked.tokenizer_name, local_files_only=True)
    model = train(asked, tokenizer).eval()
    held_out = rows_of(tokenizer, "validation_file", asked.validation_file, asked.max_length)
    found: dict[str, Any] = {"num_parameters": model.num_parameters()}
    found |= nats(model, held_out, int(tokenizer.pad_token_id)).figures("nats")
    print(json.dumps({**found, "samples": [{"text": text} for text in samples(model, tokenizer, asked)]}))
    return 0


if __name__ == "__main__":
    command.run(PROGRAM, main)
