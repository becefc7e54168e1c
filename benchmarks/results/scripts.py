"""The commands of the original example scripts, on WikiText-2: a thousand steps of each process, BERT-base's shape.

Theirs start from `bert-base-uncased` and read the data set from the hub. There is none here, so the same network begins with
random weights, the tokenizer is one of as many tokens made of the text, and the text is a file. What else differs is in `CUT`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..report import Section, Table
from .estimates import shown
from .flags import overrides, words
from .run import Run, Size
from .wikitext import SETS, TRAIN, Figures, splits

COMMANDS: dict[str, dict[str, object]] = {"mdlm": {}, "udlm": {"exclude_mask_from_uniform": True}, "hybrid": {}}
CUT: dict[Size, dict[str, object]] = {
    "small": {
        "config_overrides": overrides(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
        ),
        "max_train_steps": 3,
        "max_length": 32,
    },
    "full": {"max_train_steps": 1000, "max_length": 64, "mixed_precision": "bf16"},
}
"""Beside the scripts' flags: what makes a thousand steps fit into an hour of one core."""
VOCABULARY: dict[Size, int] = {"small": 4096, "full": 30522}

SAID = """\
`accelerate launch -m trainer mdlm --max_train_steps 1000` and so on, with BERT-base's shape from random weights
({num_parameters:,} parameters; the scripts start from the trained `bert-base-uncased`, and there was no hub to take it from),
lower-cased byte-level BPE of {vocabulary:,} tokens, each line an example, batches of 8, learning rate 5e-5. What else differs
from the scripts: {cut}. {cost} A thousand steps from random weights at this learning rate are a beginning, whatever the
process."""

COST = """\
With the scripts' own length of 256 and in float32 a step of MDLM took 9.0 s of one core of an AMD EPYC (what four steps took
beyond one), so that a thousand are two hours and a half."""


def section(run: Run) -> Section:
    tokenizer = run.trainer(
        "scripts/tokenizer",
        "tokenizer",
        "--train_file",
        run.data.file(TRAIN),
        "--lowercase",
        "--vocab_size",
        VOCABULARY[run.size],
    )
    table = Table(["command", "text", "bound, nats a token", "perplexity a token ≤", "bits a byte"])
    found: dict[str, Any] = {}
    for command, flags in COMMANDS.items():
        folder = trained(run, tokenizer, command, flags)
        for name in splits(run):
            found = bound(run, folder, name)
            figures = Figures.of(found["validation"], "nelbo")
            nats = figures.nats
            table.add(f"`{command}`", name, shown(nats, 3), shown(nats.exp(), 0), shown(figures.bits_per_byte, 3))
    cut = ", ".join(f"`--{name} {value}`" for name, value in CUT[run.size].items())
    said = SAID.format(num_parameters=found["num_parameters"], vocabulary=VOCABULARY[run.size], cut=cut, cost=COST)
    return Section("scripts", "The original scripts' commands", [said, table])


def trained(run: Run, tokenizer: Path, command: str, flags: dict[str, object]) -> Path:
    given = {
        "config_name": "bert",
        "tokenizer_name": tokenizer,
        "train_file": run.data.file(TRAIN),
        **CUT[run.size],
        **flags,
    }
    given |= {"checkpoints_total_limit": 1, "report_to": "none"}
    return run.trainer(f"scripts/{command}", command, *words(given))


def bound(run: Run, folder: Path, name: str) -> dict[str, Any]:
    """Of a split, each line an example, cut off where training cut."""
    given = {
        "checkpoint_path": folder,
        "validation_file": run.data.file(SETS[name]),
        "max_length": CUT[run.size]["max_length"],
        "num_times": 1,
        "per_device_eval_batch_size": 32,
        "mixed_precision": "bf16",
    }
    return run.evaluate(f"scripts/{folder.parent.name}-{name}", *words(given))
