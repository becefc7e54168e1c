"""WikiText-2: the three processes, an autoregressive model, and the reference implementation's recipe, at one budget.

All see the same tokens of the train split, as many, in pieces of the same length by the same tokenizer, and are measured by the
same command on the valid and test splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.evaluation.bound import Estimate

from ..report import Section, Table
from .estimates import shown
from .flags import overrides, words
from .run import Run, Size

LENGTH, VOCABULARY = 128, 4096
SETS = {"valid": "wikitext-2/valid.txt", "test": "wikitext-2/test.txt"}
TRAIN = "wikitext-2/train.txt"


@dataclass(frozen=True)
class Plan:
    """How much is made: optimizer steps of `batch` pieces; a network's width and depth (`reference`: of the reference's).

    num_times: at which a piece's bound is measured. evaluations: among which the autoregressive model's best weights are.
    """

    steps: int
    batch: int
    width: int
    layers: int
    reference: int
    num_times: int
    evaluations: int


PLANS: dict[Size, Plan] = {"small": Plan(5, 8, 64, 2, 1, 1, 1), "full": Plan(1600, 32, 128, 6, 3, 2, 4)}

REFERENCE_STEPS, REFERENCE_WARMUP, REFERENCE_DECAY = 1_000_000, 2500, 0.9999
"""Of the recipe of kuleshov-group/mdlm (`configs/`): steps, those of warm-up, EMA."""

SAID = """\
{tokens:,} tokens seen in pieces of {length} (about {epochs:,.1f} times the train split), byte-level BPE of {vocabulary:,}
tokens made of it, one seed. Bounds for the three processes, at {num_times} times a piece, the likelihood itself for the
autoregressive model (GPT-2's network, by transformers' Trainer; its best weights on valid). The ± are standard errors over
pieces: not those of another seed. A word is what white space divides, and the end of a line is one, as in the literature. A
piece is read without what stands before it; with at least half a piece before each token the autoregressive model has
{sliding} a word.

*Ours* is ModernBERT, in which two layers of three see eight tokens to each side, AdamW with a cosine, `--estimator count` for
masks. Windows and rate were chosen by the training loss of MDLM after 400 steps of short runs of four layers: 5.87 nats with
windows at a rate of 2e-3, 5.89 at 3e-3, 5.95 at 2e-3 where each layer sees all.
*Reference* is that of the reference implementation, with its network (DiT, told sigma for UDLM), learning rate 3e-4,
constant, no weight decay, dropout 0.1, EMA, and no count of masks. Warm-up and EMA are its shares of a run: {warmup} steps
and {decay:.3f}, where it has 2,500 and 0.9999 for a million steps, with which nothing would have been learnt, or averaged, in
{steps:,}."""

BESIDE = """\
Beside what is published: AWD-LSTM (33 M parameters, 750 epochs; arXiv:1708.02182) has 68.6 a word on valid and 65.8 on test,
carrying its state on from word to word. Of papers on diffusion none trains on WikiText-2; on LM1B, ten thousand times as long
(a million steps of 512 x 128 tokens, 110 M parameters), they have 22.3 a token (autoregressive), 27.0 (MDLM), 31.3 (UDLM)
(arXiv:2506.10892, table 1): MDLM is 1.21 times and UDLM 1.40 times the autoregressive model. Those tokens are
bert-base-uncased's, so only such ratios compare with this table, and only roughly, as these models have seen little and are
far from what their size allows."""


def section(run: Run) -> Section:
    plan = PLANS[run.size]
    tokenizer = make_tokenizer(run)
    folders = {
        "MDLM": ours(run, plan, tokenizer, "mdlm", estimator="count"),
        "UDLM": ours(run, plan, tokenizer, "udlm"),
        "hybrid": ours(run, plan, tokenizer, "hybrid"),
        "MDLM, reference": reference(run, plan, tokenizer, "mdlm", time_conditioning="zero"),
        "UDLM, reference": reference(run, plan, tokenizer, "udlm", time_conditioning="sigma"),
    }
    table = Table(["model", "parameters", "text", "nats a token", "perplexity a token", "a word", "bits a byte"])
    for model, folder in folders.items():
        for name in splits(run):
            found = bound(run, plan, folder, name)
            figures = Figures.of(found["validation"], "nelbo")
            table.add(f"{model}, bound", f"{found['num_parameters']:,}", name, *figures.cells(words_of(run, name)))
    judge = autoregressive(run, plan, tokenizer)
    read = {"valid": judge} | {file.removesuffix(".txt"): found for file, found in judge["tests"].items()}
    for name in splits(run):
        figures = Figures.of(read[name]["pieces"], "nats")
        table.add("autoregressive", f"{judge['num_parameters']:,}", name, *figures.cells(words_of(run, name)))
    return Section("wikitext", "WikiText-2", [said(run, plan, read), table, BESIDE])


def splits(run: Run) -> list[str]:
    """Those that are measured."""
    return list(SETS) if run.size == "full" else ["valid"]


def words_of(run: Run, name: str) -> int:
    return count(run.data.file({**SETS, "train": TRAIN}[name]))


def make_tokenizer(run: Run) -> Path:
    return run.trainer(
        "wikitext/tokenizer", "tokenizer", "--train_file", run.data.file(TRAIN), "--vocab_size", VOCABULARY
    )


def common(run: Run, plan: Plan, tokenizer: Path) -> dict[str, object]:
    """What all runs of our trainer share."""
    return {
        "train_file": run.data.file(TRAIN),
        "packing": True,
        "max_length": LENGTH,
        "tokenizer_name": tokenizer,
        "per_device_train_batch_size": plan.batch,
        "max_train_steps": plan.steps,
        "checkpointing_steps": 200,
        "checkpoints_total_limit": 1,
        "mixed_precision": "bf16",
        "report_to": "none",
    }


def ours(run: Run, plan: Plan, tokenizer: Path, command: str, **flags: object) -> Path:
    shape = {"num_attention_heads": plan.width // 64, "intermediate_size": 3 * plan.width, "local_attention": 16}
    given = common(run, plan, tokenizer) | {
        "config_name": "modernbert",
        "config_overrides": overrides(hidden_size=plan.width, num_hidden_layers=plan.layers, **shape),
        "learning_rate": 2e-3,
        "lr_warmup_ratio": 0.05,
        "weight_decay": 0.05,
        "adam_beta2": 0.98,
        "ema_decay": 0.99,
    }
    return run.trainer(f"wikitext/{command}", command, *words(given | flags))


def scaled(steps: int) -> tuple[int, float]:
    """Warm-up and EMA of the reference in a run of `steps`: the same share of it, and an average over the same share."""
    warmup = max(1, round(REFERENCE_WARMUP / REFERENCE_STEPS * steps))
    window = steps / REFERENCE_STEPS / (1 - REFERENCE_DECAY)
    return warmup, max(0.0, 1 - 1 / max(window, 1.0))


def reference(run: Run, plan: Plan, tokenizer: Path, command: str, time_conditioning: str) -> Path:
    """The network of kuleshov-group/mdlm and its recipe at our budget."""
    shape = {"num_attention_heads": plan.width // 64, "intermediate_size": 4 * plan.width, "dropout": 0.1}
    shape |= {"max_position_embeddings": LENGTH}
    warmup, decay = scaled(plan.steps)
    given = common(run, plan, tokenizer) | {
        "config_name": "token-diffusion",
        "config_overrides": overrides(
            hidden_size=plan.width, num_hidden_layers=plan.reference, time_conditioning=time_conditioning, **shape
        ),
        "learning_rate": 3e-4,
        "lr_scheduler": "constant_with_warmup",
        "lr_warmup_steps": warmup,
        "weight_decay": 0,
        "ema_decay": decay,
    }
    return run.trainer(f"wikitext/{command}-reference", command, *words(given))


def autoregressive(run: Run, plan: Plan, tokenizer: Path) -> dict[str, Any]:
    """Its figures; of valid at the top, of test under `tests`."""
    tests = {"test_file": run.data.file(SETS["test"])} if "test" in splits(run) else {}
    given = tests | {
        "train_file": run.data.file(TRAIN),
        "validation_file": run.data.file(SETS["valid"]),
        "tokenizer_name": tokenizer,
        "context": LENGTH,
        "hidden_size": plan.width,
        "num_layers": plan.layers,
        "max_train_steps": plan.steps,
        "batch_size": plan.batch,
        "learning_rate": 1.5e-3,
        "eval_steps": plan.steps // plan.evaluations,
        "bf16": True,
    }
    flags = [*words(given), "--output_dir", run.output / "wikitext" / "autoregressive"]
    found: dict[str, Any] = run.module("wikitext/autoregressive", "benchmarks.decoders.judge", *flags)
    return found


def bound(run: Run, plan: Plan, folder: Path, name: str) -> dict[str, Any]:
    """The figures of a folder on a split."""
    given = {
        "checkpoint_path": folder,
        "validation_file": run.data.file(SETS[name]),
        "packing": True,
        "max_length": LENGTH,
        "num_times": plan.num_times,
        "per_device_eval_batch_size": 32,
        "mixed_precision": "bf16",
    }
    return run.evaluate(f"{folder.parent.relative_to(run.output)}-{name}", *words(given))


@dataclass(frozen=True)
class Figures:
    """Of one model and text: nats a token, bits a byte, and how many tokens there are."""

    nats: Estimate
    bits_per_byte: Estimate
    num_tokens: int

    @classmethod
    def of(cls, found: dict[str, Any], nats: str) -> Figures:
        mine, bits = (Estimate.read(found, name) for name in (nats, "bits_per_byte"))
        return cls(mine, bits, found["num_tokens"])

    def per_word(self, num_words: int) -> Estimate:
        """exp(nats of the text / words), by the delta method."""
        return self.nats.scaled(self.num_tokens / num_words).exp()

    def cells(self, num_words: int) -> tuple[str, ...]:
        """As the table has them."""
        perplexity, word = shown(self.nats.exp(), 1), shown(self.per_word(num_words), 0)
        return shown(self.nats, 3), perplexity, word, shown(self.bits_per_byte, 3)


def count(file: Path) -> int:
    """Words, and one more a line: 217,646 of valid and 245,569 of test, as is published."""
    text = file.read_text(encoding="utf-8")
    return len(text.split()) + text.count("\n")


def said(run: Run, plan: Plan, read: dict[str, dict[str, Any]]) -> str:
    """What the table is of."""
    tokens = plan.steps * plan.batch * LENGTH
    words_a_token = words_of(run, "valid") / read["valid"]["num_tokens"]
    sliding = [
        f"{found['perplexity'] ** (found['num_tokens'] / words_of(run, name)):,.0f} ({name})"
        for name, found in read.items()
    ]
    warmup, decay = scaled(plan.steps)
    return SAID.format(
        tokens=tokens,
        length=LENGTH,
        epochs=tokens * words_a_token / words_of(run, "train"),
        vocabulary=VOCABULARY,
        num_times=plan.num_times,
        sliding=" and ".join(sliding),
        warmup=warmup,
        decay=decay,
        steps=plan.steps,
    )
