"""Choices that people ask about, each alone: small models of one base, which differ in one flag, at the same tokens seen.

A row has a run for each seed of weights, order and noise; the held-out text and its noise are the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..report import Section, Table
from .estimates import Spread
from .flags import overrides, words
from .run import Run, Size

SEEDS: dict[Size, tuple[int, ...]] = {"small": (0,), "full": (0, 1)}
STEPS: dict[Size, int] = {"small": 3, "full": 350}
LENGTH, BATCH = 128, 32

TRAIN, HELD_OUT = "gutenberg-simple/train.txt", "gutenberg-simple/valid.txt"
SHAPE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 256}
WIDE = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 320}
DEEP = {"hidden_size": 96, "num_hidden_layers": 7, "num_attention_heads": 2, "intermediate_size": 192}
WINDOW = 16
"""Tokens that two layers of three see: eight to each side."""
SPREAD = 0.06
"""`initializer_range`: at this width the transformers' own 0.02 leaves what a token says of its neighbours to be learnt late."""


def shaped(shape: dict[str, int], window: int = WINDOW, spread: float = SPREAD, **more: object) -> dict[str, object]:
    return {"config_overrides": overrides(**shape, local_attention=window, initializer_range=spread, **more)}


MODERN = {"config_name": "modernbert", **shaped(SHAPE)}
BASE: dict[str, object] = {
    **MODERN,
    "max_length": LENGTH,
    "per_device_train_batch_size": BATCH,
    "learning_rate": 3e-3,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup_ratio": 0.1,
    "mixed_precision": "bf16",
    "report_to": "none",
}


@dataclass(frozen=True)
class Row:
    """One change. `flags` are those that differ from `BASE`; `against` names the row that it is compared with."""

    name: str
    said: str
    command: str = "mdlm"
    against: str = "base"
    flags: dict[str, object] = field(default_factory=dict)
    vocab_size: int = 2048
    framed: bool = False


ABLATIONS = [
    Row("base", "MDLM: time drawn, stratified over the step, packed without a frame"),
    Row("count", "`--estimator count`: the number of masks is drawn", flags={"estimator": "count"}),
    Row("independent", "`--time_sampling independent`", flags={"time_sampling": "independent"}),
    Row("framed", "packed pieces in a frame, `[CLS]` … `[SEP]`", framed=True),
    Row("dynamic", "hybrid, `--loss_weighting dynamic`", "hybrid", "dynamic", {"loss_weighting": "dynamic"}),
    Row("clip", "hybrid, `clip`", "hybrid", "dynamic", {"loss_weighting": "clip"}),
    Row("elbo", "hybrid, `elbo`", "hybrid", "dynamic", {"loss_weighting": "elbo"}),
]
RECIPE = [
    ABLATIONS[0],
    Row("vocabulary", "4,096 tokens instead of 2,048", vocab_size=4096),
    Row("slow", "learning rate 1e-3 instead of 3e-3", flags={"learning_rate": 1e-3}),
    Row("fast", "learning rate 6e-3", flags={"learning_rate": 6e-3}),
    Row("cosine", "a cosine down to 0 instead of a constant rate", flags={"lr_scheduler": "cosine"}),
    Row("full", "each layer sees all tokens", flags=shaped(SHAPE, 1024)),
    Row("spread", "weights begin with a deviation of 0.02 instead of 0.06", flags=shaped(SHAPE, spread=0.02)),
    Row("average", "`--ema_decay 0.98`", flags={"ema_decay": 0.98}),
    Row("dropout", "dropout 0.1 instead of 0", flags=shaped(
        SHAPE, embedding_dropout=0.1, mlp_dropout=0.1, attention_dropout=0.1)),
    Row("wide", "2 layers of 192 instead of 4 of 128", flags=shaped(WIDE)),
    Row("deep", "7 layers of 96", flags=shaped(DEEP)),
    Row("short", "pieces of 64 tokens, 64 a step", flags={"max_length": 64, "per_device_train_batch_size": 64}),
    Row("long", "pieces of 256 tokens, 16 a step", flags={"max_length": 256, "per_device_train_batch_size": 16}),
]  # fmt: skip
SMALL = ("base", "count", "slow")

SAID = """\
ModernBERT of {parameters:,} parameters (4 layers of 128, two of three of which see eight tokens to each side; 2,048 tokens;
where a row says nothing else), {tokens:,} tokens of simple English seen in {steps} steps, held out `{held_out}`; seeds {seeds}.
The bound is in bits a byte, which compares across vocabularies: its mean over the seeds ± half of what lies between them. Of
the row compared with, the run of the same seed counts; below zero is better. This is early in training, and two seeds are few:
a difference that is not several times its ± says nothing."""

PLATEAU = """\
{bits:.2f} bits a byte is what this text costs whoever knows how often each token is and nothing else, and where each of these
models stays for a while: what a row gains is mostly how soon it leaves. Hybrid under `elbo` has not in these steps. What
telling UDLM the time is worth stands in [Molecules](#molecules-qm9)."""

LENGTHS = """\
Bounds at other lengths are measured at that length: a longer piece has more context. Of another depth the layers cost the
same; the vocabulary's part grows with the width."""


def section(run: Run) -> Section:
    """What people ask about the processes and their training."""
    found = compared(run, "ablations", "Ablations", ABLATIONS)
    if run.size == "full":
        found.parts.append(PLATEAU.format(bits=unigram(run)))
    return found


def recipe(run: Run) -> Section:
    """What a recipe for such models is made of."""
    found = compared(run, "recipe", "The recipe's choices", RECIPE)
    if run.size == "full":
        found.parts.append(LENGTHS)
    return found


def compared(run: Run, name: str, title: str, rows: Sequence[Row]) -> Section:
    """The table of `rows`, with what it is of."""
    rows = [row for row in rows if run.size == "full" or row.name in SMALL]
    measured = {row.name: [measure(run, row, seed) for seed in SEEDS[run.size]] for row in rows}
    steps, (base, *_) = STEPS[run.size], measured["base"]
    told = {"steps": steps, "tokens": steps * BATCH * LENGTH, "parameters": base["parameters"]}
    said = SAID.format(**told, held_out=HELD_OUT, seeds=" and ".join(map(str, SEEDS[run.size])))
    return Section(name, title, [said, table(rows, measured)])


def tokenizer_of(run: Run, vocab_size: int) -> Path:
    flags = words({"train_file": run.data.file(TRAIN), "vocab_size": vocab_size})
    return run.trainer(f"ablations/tokenizer-{vocab_size}", "tokenizer", *flags)


def unigram(run: Run) -> float:
    """Bits a byte of the held-out text for who knows how often each token stands in the learnt one, one more of each."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        tokenizer_of(run, ABLATIONS[0].vocab_size), local_files_only=True
    )
    texts = [run.data.file(name).read_text(encoding="utf-8") for name in (TRAIN, HELD_OUT)]
    learnt, held_out = (
        np.concatenate(tokenizer(text.splitlines(keepends=True), add_special_tokens=False)["input_ids"])
        for text in texts
    )
    counts = np.bincount(learnt, minlength=len(tokenizer)) + 1
    return float(-np.log2(counts[held_out] / counts.sum()).sum()) / len(texts[1].encode())


def measure(run: Run, row: Row, seed: int) -> dict[str, Any]:
    """The figures of `trainer evaluate` for one run, with the `parameters` of its model."""
    tokenizer = tokenizer_of(run, row.vocab_size)
    name = f"ablations/{row.name}-{seed}"
    given = BASE | row.flags | {"seed": seed, "tokenizer_name": tokenizer}
    if row.framed:
        given = framed(run, name, given)
    steps = STEPS[run.size]
    given |= {"max_train_steps": steps, "checkpointing_steps": steps, "train_file": run.data.file(TRAIN)}
    folder = run.trainer(name, row.command, "--packing", *words(given))
    found = run.evaluate(
        f"{name}-bound", "--checkpoint_path", folder, "--validation_file", run.data.file(HELD_OUT), "--packing",
        "--max_length", given["max_length"], "--num_times", 2, "--mixed_precision", "bf16",
    )  # fmt: skip
    return found["validation"] | {"parameters": found["num_parameters"]}


def framed(run: Run, name: str, given: dict[str, object]) -> dict[str, object]:
    """The flags with which the run goes on from a folder that has a frame and the random weights of a new one.

    A run of lines frames each. Its one step is the first of the warm-up, where the learning rate is 0.
    """
    text = run.data.file(HELD_OUT)
    start = given | {"train_file": text, "max_train_steps": 1, "lr_warmup_steps": 1, "checkpointing_steps": 1}
    del start["lr_warmup_ratio"]
    folder = run.trainer(f"{name}-start", "mdlm", *words(start))
    # Not the tokenizer either: beside another one a folder gives its weights alone, and no frame.
    left = {key: value for key, value in given.items() if key not in {*MODERN, "tokenizer_name"}}
    return left | {"model_name_or_path": folder}


def table(rows: Sequence[Row], measured: dict[str, list[dict[str, Any]]]) -> Table:
    found = Table(["", "parameters", "bits a byte", "against", "difference"])
    for row in rows:
        mine, other = ([each["bits_per_byte"] for each in measured[name]] for name in (row.name, row.against))
        differs = Spread([a - b for a, b in zip(mine, other, strict=True)])
        compared = ("-", "-") if row.against == row.name else (row.against, differs.text(4, signed=True))
        found.add(
            f"**{row.name}**: {row.said}", f"{measured[row.name][0]['parameters']:,}", Spread(mine).text(4), *compared
        )
    return found
