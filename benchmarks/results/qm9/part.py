"""Molecules: MDLM, UDLM, hybrid and an autoregressive model of one shape on QM9, without labels and guided by one.

The protocol is that of *Simple Guidance Mechanisms for Discrete Diffusion Models* (arXiv:2412.10193) as its authors' code has
it: SMILES of 32 tokens whose length is learnt with them, 1,024 samples, and for guidance the label "property above its 90th
percentile", of rings and of QED, which a tenth of the training examples are not told.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.evaluation.bound import Estimate

from ...report import Section, Table
from ..estimates import mean, share, shown
from ..flags import words
from ..run import Run, Size
from .molecules import Molecules, judged, known_molecules
from .notes import ABOUT, EVERY, GUIDED, PICTURE, UNGUIDED


class Model(NamedTuple):
    """A row: its title, the trainer's command, what its network has beside `SHAPE`, in how many times `Plan.train_steps`."""

    title: str
    command: str
    overrides: str = ""
    rounds: int = 1
    flags: Sequence[object] = ()


DEMO = "mdlm-demo"
MODELS = {
    "mdlm": Model("MDLM", "mdlm"),
    DEMO: Model("MDLM, the demo", "mdlm", ",initializer_range=0.06", 2, ["--save_dtype", "float16"]),
    "udlm": Model("UDLM", "udlm"),
    "udlm-untimed": Model("UDLM, not told the time", "udlm", ",time_conditioning=none"),
    "hybrid": Model("hybrid", "hybrid"),
}
"""By the name of its folder."""
LABELLED = ("mdlm", "udlm")
PROPERTY = {"rings": "rings", "qed": "QED"}
LENGTH, BATCH, GUIDED_STEPS = 32, 64, 32
SHAPE = "hidden_size=128,num_hidden_layers=6,num_attention_heads=4,intermediate_size=384,max_position_embeddings=32"
NETWORK = f"--learn_end --max_length {LENGTH} --config_name token-diffusion".split()
OPTIMIZER = f"--per_device_train_batch_size {BATCH} --learning_rate 0.001 --adam_beta2 0.98 --ema_decay 0.99".split()
COURSE = words({"checkpointing_steps": 300, "checkpoints_total_limit": 1, "logging_steps": 50, "report_to": "none"})


@dataclass(frozen=True)
class Plan:
    """How much is made: optimizer steps of `BATCH` molecules, without and with labels; samples, and the steps they are drawn in;
    samples under guidance, and its scales. molecules: the first of each file are read; None for all."""

    molecules: int | None
    train_steps: int
    labelled_steps: int
    num_samples: int
    steps: tuple[int, ...]
    num_guided: int
    scales: tuple[float, ...]


PLANS: dict[Size, Plan] = {
    "small": Plan(1000, 40, 20, 64, (16,), 16, (1, 3)),
    "full": Plan(None, 3200, 1600, 1024, (32, 64, 128), 512, (0, 1, 2, 3)),
}


def section(run: Run) -> Section:
    """Both tables, with what they are of."""
    plan = PLANS[run.size]
    tokenizer = run.trainer(
        "qm9/tokenizer", "tokenizer", "--kind", "smiles", "--train_file", split(run, plan, "train")
    )
    known = known_molecules(run.data.file("qm9/qm9.tsv"))
    tables = unguided(run, plan, tokenizer, known), guided(run, plan, tokenizer, known)
    training, tested = (len(split(run, plan, name).read_text(encoding="utf-8").split()) for name in ("train", "test"))
    seen = {"molecules": plan.train_steps * BATCH, "labelled": plan.labelled_steps * BATCH}
    sizes = {"batch": BATCH, "length": LENGTH, "train_steps": plan.train_steps, "known": len(known)}
    about = ABOUT.format(**seen, **sizes, training=training, tested=tested, times=seen["molecules"] / training)
    how = {"num_samples": plan.num_guided, "steps": GUIDED_STEPS, "labelled": seen["labelled"]}
    notes = (
        UNGUIDED.format(num_samples=plan.num_samples, every=EVERY, rounds=MODELS[DEMO].rounds),
        GUIDED.format(**how),
    )
    return Section("qm9", "Molecules: QM9", [about, notes[0], tables[0], notes[1], tables[1]])


def split(run: Run, plan: Plan, name: str) -> Path:
    """The molecules of a split, one a line: the file itself, or the plan's part of it."""
    whole = run.data.file(f"qm9/{name}.txt")
    if plan.molecules is None:
        return whole
    path = run.output / "qm9" / whole.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole.open(encoding="utf-8") as lines, path.open("w", encoding="utf-8") as part:
        part.writelines(islice(lines, plan.molecules))
    return path


def trained(run: Run, plan: Plan, tokenizer: Path, name: str, label: str | None = None) -> Path:
    """The folder of one of `MODELS`, told the label of a property or none."""
    model = MODELS[name]
    flags: list[object] = ["--tokenizer_name", tokenizer, *NETWORK, "--config_overrides", SHAPE + model.overrides]
    flags += ["--mixed_precision", "bf16", *OPTIMIZER, *COURSE]
    flags += ["--estimator", "count"] if model.command == "mdlm" else []
    if label is None:
        flags += ["--train_file", split(run, plan, "train"), "--max_train_steps", model.rounds * plan.train_steps]
        flags += ["--validation_file", split(run, plan, "valid")]
        return run.trainer(f"qm9/{name}", model.command, *flags, "--num_validation_samples", 10, *model.flags)
    flags += ["--train_file", labels_file(run, plan, label), "--text_column", "smiles", "--label_column", "label"]
    return run.trainer(f"qm9/{name}-{label}", model.command, *flags, "--max_train_steps", plan.labelled_steps)


def values(run: Run, name: str) -> tuple[dict[str, float], float]:
    """A property of all molecules by their SMILES, and its 90th percentile."""
    with run.data.file("qm9/qm9.tsv").open(encoding="utf-8") as file:
        found = {row["smiles"]: float(row[name]) for row in csv.DictReader(file, delimiter="\t")}
    return found, float(np.percentile(list(found.values()), 90))


def labels_file(run: Run, plan: Plan, name: str) -> Path:
    """The training molecules with the label of a property: 1 above its 90th percentile, else 0."""
    found, limit = values(run, name)
    training = set(split(run, plan, "train").read_text(encoding="utf-8").split())
    path = run.output / "qm9" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["smiles", "label"])
        table.writerows([smiles, int(value > limit)] for smiles, value in found.items() if smiles in training)
    return path


def sampled(run: Run, name: str, folder: Path, known: frozenset[str], **asked: Any) -> tuple[Molecules, int]:
    """What `token_diffusion sample` draws, judged, and its evaluations of the network."""
    process = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8"))["forward_process"]
    command = "sample-hybrid" if process == "hybrid" else "sample"
    typed = [command, "--checkpoint_path", folder, "--dtype", "bfloat16", "--seq_len", LENGTH]
    found = run.module(name, "token_diffusion", *typed, *words(asked), "--json")
    return judged([each["text"] for each in found["samples"]], known), found["usage"]["nfe"]


SHARES = ("valid, %", "unique of valid, %", "novel of unique, %")


def shares(found: Molecules) -> list[str]:
    """The cells under `SHARES`."""
    return [shown(each, 1, 100) for each in (found.validity, found.uniqueness, found.novelty)]


def unguided(run: Run, plan: Plan, tokenizer: Path, known: frozenset[str]) -> Table:
    """Validity, uniqueness and novelty by the number of steps."""
    table = Table(["model", "parameters", "nats a molecule", "steps", "NFE", *SHARES, "novel"])

    def add(title: str, about: tuple[int, str], steps: object, nfe: object, found: Molecules) -> None:
        table.add(title, f"{about[0]:,}", about[1], steps, nfe, *shares(found), len(found.novel))

    for name, model in MODELS.items():
        folder = trained(run, plan, tokenizer, name)
        about = bound(run, plan, f"qm9/{name}-bound", folder)
        for steps in (*plan.steps, *([None] if model.command == "mdlm" else [])):
            asked = {"num_samples": plan.num_samples, "num_inference_steps": "none" if steps is None else steps}
            found, nfe = sampled(run, f"qm9/{name}-{steps or 'first'}", folder, known, **asked)
            add(model.title, about, "first-hitting" if steps is None else steps, nfe, found)
    baseline = causal(run, plan, tokenizer)
    drawn = judged([each["text"] for each in baseline["samples"]], known)
    nats = shown(Estimate.read(baseline, "nats"))
    add("autoregressive", (baseline["num_parameters"], f"{nats}, exact"), "-", "a token", drawn)
    return table


def bound(run: Run, plan: Plan, name: str, folder: Path) -> tuple[int, str]:
    """Parameters, and the bound in nats a molecule of those that were not trained on, its end among them."""
    flags = ["--validation_file", split(run, plan, "test"), "--max_length", LENGTH, "--num_times", 1]
    found = run.evaluate(name, "--checkpoint_path", folder, *flags, "--per_device_eval_batch_size", 256)
    figures = found["validation"]
    nelbo = Estimate.read(figures, "nelbo").scaled(figures["num_tokens"] / figures["num_sequences"])
    return found["num_parameters"], f"≤ {shown(nelbo)}"


def causal(run: Run, plan: Plan, tokenizer: Path) -> Mapping[str, Any]:
    """The autoregressive model: the same molecules, steps, batch and learning rate."""
    files = ["--train_file", split(run, plan, "train"), "--validation_file", split(run, plan, "test")]
    flags = ["--tokenizer_name", tokenizer, "--max_length", LENGTH, "--max_train_steps", plan.train_steps, "--bf16"]
    flags += ["--batch_size", BATCH, "--learning_rate", 0.001, "--num_samples", plan.num_samples]
    flags += ["--output_dir", run.output / "qm9" / "ar"]
    found: Mapping[str, Any] = run.module("qm9/ar", "benchmarks.results.qm9.causal_lines", *files, *flags)
    return found


def guided(run: Run, plan: Plan, tokenizer: Path, known: frozenset[str]) -> Table:
    """What guidance does to the property that the label is of, and to validity and novelty."""
    titles = "valid, %", "novel, %", "mean of novel"
    table = Table(["property", "model", "guidance scale", "NFE", *titles, "authors: novel, %", "mean"])
    for name, title in PROPERTY.items():
        found, limit = values(run, name)
        for what, chosen in (("all", found.values()), ("label 1", [each for each in found.values() if each > limit])):
            table.add(title, f"QM9, {what}", "-", "-", "-", "-", shown(mean(list(chosen)), 3), "-", "-")
        for command in LABELLED:
            folder = trained(run, plan, tokenizer, command, name)
            for scale in plan.scales:
                asked = {"num_samples": plan.num_guided, "num_inference_steps": GUIDED_STEPS}
                about = {"label": 1, "guidance_scale": scale}
                drawn, nfe = sampled(run, f"qm9/{command}-{name}-{scale}", folder, known, **asked, **about)
                novel = share(len(drawn.novel), drawn.num_samples)
                cells = shown(drawn.validity, 1, 100), shown(novel, 1, 100), shown(drawn.mean(name), 3)
                theirs = PICTURE[command].get(int(scale)) if name == "rings" else None
                beside = ("-", "-") if theirs is None else (f"{theirs[0] / 10.24:.1f}", f"{theirs[1]:.2f}")
                table.add(title, MODELS[command].title, f"{scale:g}", nfe, *cells, *beside)
    return table
