"""Simple English: what three processes write, beside text that was held out of what they have learnt.

Size full reads the demos in `checkpoints/`, which took hours, with a judge that it trains; what it finds is left beside each demo
as `reading.json`, of which `cards.py` makes its card. Size small trains a judge and three models of picture books.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.evaluation.bound import Estimate

from ... import ROOT
from ...models import DEMOS
from ...report import Section, Table
from ..estimates import shown
from ..run import Run

TEXTS = {"small": ("storybooks-ccby",), "full": ("gutenberg-simple", "storybooks-ccby", "tatoeba-english")}
"""In each of them train.txt is learnt, valid.txt and test.txt are held out."""

VOCAB_SIZE = 2048
MODEL = """--packing --max_length 64 --config_name modernbert --per_device_train_batch_size 16 --learning_rate 3e-3
    --lr_scheduler constant_with_warmup --lr_warmup_steps 20 --ema_decay 0.95 --max_train_steps 60 --checkpointing_steps 60
    --logging_steps 20 --report_to none --config_overrides
    hidden_size=128,num_hidden_layers=3,num_attention_heads=2,intermediate_size=256,local_attention=1024"""
"""Of the models that size small trains."""

JUDGE = {
    "small": "--context 64 --hidden_size 128 --num_layers 2 --max_train_steps 60 --eval_steps 30",
    "full": """--context 128 --hidden_size 256 --num_layers 5 --dropout 0.05 --max_train_steps 800 --batch_size 32
    --eval_steps 200 --bf16""",
}
READING = {"small": "--num_samples 16 --seq_len 64 --num_inference_steps 16", "full": ""}
"""Flags; the defaults of `reading.py` are the sizes of the published figures."""

KNOWN, RATIO, OFF = 0.97, 2.0, 0.05
"""Aims: words that the corpus has, perplexity against that of held-out text, entropies against its own."""

COLUMNS = [
    "",
    "steps",
    "words known",
    "perplexity",
    "to held-out's",
    "unigram entropy",
    "a sample's entropy",
    "distinct-2",
]
COLUMNS += ["8-grams copied", "aims missed"]

HELD_OUT = {
    "free": "held-out text",
    "prompted": "held-out, after its first quarter",
    "infilled": "held-out, its middle half",
}

NOTE = """{num_samples} samples of {seq_len} tokens a row, temperature 1, no top-p, the default sampler; sample i is that of seed
i. Prompted: the first quarter of a held-out window is given; infilled: its middle half is open; only what is drawn counts, and
of the held-out row above the same places of the same windows. Words: share that the learnt text has, cut words at the edges and
all. Perplexity: a token of the judge `{name}`, a causal LM (GPT-2's network, {num_parameters:,} parameters) that was trained on
the same text{own}, and as a multiple of that of held-out text. Entropies: nats, of all samples' tokens together and of each
sample's alone. 8-grams: share of the stretches of eight words that stand in the learnt text. ± one standard error over samples;
that of a multiple takes both sides as independent. **Aims**, beside each row that misses one: words ≥ 97 %, perplexity at most
twice that of held-out text, both entropies within 5 %. Copied stretches have the held-out row to be compared with: text that is
known by heart reads well, and is no success."""


def section(run: Run) -> Section:
    """The table."""
    found = Section("english", "Simple English: samples beside held-out text")
    demos = {name: folder.relative_to(ROOT) for name, folder in DEMOS.items()}
    judge, models = trained(run) if run.size == "small" else (train_judge(run), demos)
    read = {name: reading(run, name, folder, judge) for name, folder in models.items()}
    found.parts += [note(next(iter(read.values()))), table(read)]
    return found


def files(run: Run, part: str) -> list[Path]:
    return run.data.files(*(f"{text}/{part}.txt" for text in TEXTS[run.size]))


def train_judge(run: Run, *flags: object) -> Path:
    """Its folder. It is validated on the first text alone."""
    folder = run.output / "judge-english"
    where = ["--train_file", *files(run, "train"), "--validation_file", files(run, "valid")[0], "--output_dir", folder]
    run.module("judge-english", "benchmarks.decoders.judge", *where, *JUDGE[run.size].split(), *flags)
    return folder


def trained(run: Run) -> tuple[Path, dict[str, Path]]:
    """A judge and a model of each process, of one tokenizer."""
    learnt = ["--train_file", *files(run, "train")]
    tokenizer = run.trainer("english-tokenizer", "tokenizer", *learnt, "--vocab_size", VOCAB_SIZE)
    flags = [*learnt, "--tokenizer_name", tokenizer, *MODEL.split()]
    models = {name: run.trainer(f"{name}-english", name, *flags) for name in DEMOS}
    return train_judge(run, "--tokenizer_name", tokenizer), models


def reading(run: Run, name: str, folder: Path, judge: Path) -> dict[str, Any]:
    """What `reading.py` finds; at size full it is left in the demo's folder, too."""
    texts: list[object] = []
    for learnt, *held_out in zip(*(files(run, part) for part in ("train", "valid", "test")), strict=True):
        texts += ["--text", learnt, *held_out]
    flags = ["--checkpoint_path", folder, "--judge", judge, *texts, *READING[run.size].split()]
    if run.size == "full":
        flags += ["--output", folder / "reading.json"]
    found: dict[str, Any] = run.module(f"reading-{name}-english", "benchmarks.results.english.reading", *flags)
    return found


def note(found: dict[str, Any]) -> str:
    """How to read the table, and who judges."""
    judge, own = found["judge"], ""
    if "perplexity" in judge:
        own = f" (its own perplexity of {judge['validation_file']}: {judge['perplexity']:.1f})"
    return NOTE.format(**found, name=judge["name"], num_parameters=judge["num_parameters"], own=own)


def table(read: dict[str, dict[str, Any]]) -> Table:
    """Kind after kind: held-out text, then each model. `read`: name of a model -> what `reading.py` found."""
    found = Table(COLUMNS)
    for kind, name in HELD_OUT.items():
        rows = [(model, each) for model, its in read.items() for each in its["measured"] if each["kind"] == kind]
        for model, each in rows:
            if model == rows[0][0] and each is rows[0][1]:
                found.add(name, "", *cells(each["held_out"]), "")
            steps = each["num_inference_steps"] or "first-hitting"
            found.add(f"{model}, {kind}", steps, *cells(each["samples"], each), ", ".join(missed(each)) or "none")
    return found


def cells(figures: dict[str, Any], beside: dict[str, Any] | None = None) -> list[str]:
    """Figures of samples, with those beside held-out text, or of held-out text."""
    off = ["", ""]
    if beside is not None:
        off = [f" ({100 * beside[f'{name}_off']:+.1f} %)" for name in ("unigram_entropy", "sample_entropy")]
    return [
        f"{shown(Estimate.read(figures, 'known'), 1, 100)} %",
        shown(Estimate.read(figures, "perplexity"), 1),
        "" if beside is None else shown(Estimate.read(beside, "perplexity_ratio"), 2),
        f"{figures['unigram_entropy']:.2f}{off[0]}",
        f"{figures['sample_entropy']:.2f}{off[1]}",
        "" if figures["distinct_2"] is None else f"{figures['distinct_2']:.3f}",
        f"{shown(Estimate.read(figures, 'copied'), 1, 100)} %",
    ]


def missed(beside: dict[str, Any]) -> list[str]:
    """Which of the aims, and by how much."""
    found = []
    if (short := KNOWN - beside["samples"]["known"]) > 0:
        found.append(f"words by {100 * short:.1f} points")
    if (ratio := beside["perplexity_ratio"]) > RATIO:
        found.append(f"perplexity by a factor of {ratio / RATIO:.2f}")
    for name, told in (("unigram_entropy", "unigram entropy"), ("sample_entropy", "a sample's entropy")):
        if (off := abs(beside[f"{name}_off"])) > OFF:
            found.append(f"{told} by {100 * (off - OFF):.1f} points")
    return found
