"""The whole way, from text files to the reported bound, on a source whose entropy is known.

Let a sequence x of L tokens be drawn from the law P, H be the entropy of P, and s_i be the NELBO of validation sequence i as
the trainer estimates it, at its times and with its noise. Given the trained model the s_i are independent and alike, and

    E s_i = E_P[NELBO(x)] >= E_P[-ln p_model(x)] = H + KL(P || p_model) >= H.

1. So the reported b = sum s_i / (n L) has an expectation of at least H / L, and its standard error over sequences holds both
   the error of a finite validation text and that of times and noise: b >= H / L - 4 errors, but for a chance of 3e-5.
2. The text at hand has the empirical cross entropy G = -sum ln P(x_i) / n, itself only near H. E[s_i + ln P(x_i)] >= 0
   as well, and the standard deviation of a sum is at most the sum of the standard deviations:
   b >= G / L - 4 (error of b + error of G / L).

From above: with each position learned on its own and nothing between them, b could not fall below the sum of the marginal
entropies over L. That it does shows that dependence was learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.laws import Law, make_law
from tests.tiny import word_tokenizer
from trainer.__main__ import parse
from trainer.config import TrainingConfig
from trainer.output import journal
from trainer.run.train import train

WORDS, LENGTH, TRAINING, VALIDATION = 4, 3, 20_000, 1_000
SIZES = "hidden_size=64,num_hidden_layers=2,num_attention_heads=2,intermediate_size=128,max_position_embeddings=16"
NO_DROPOUT = "hidden_dropout_prob=0,attention_probs_dropout_prob=0"


@dataclass(frozen=True)
class Source:
    """The law, its texts in `folder`, and per token: its entropy, that of its marginals, G and the error of G."""

    law: Law
    folder: Path
    entropy: float
    marginal_entropy: float
    cross_entropy: float
    cross_entropy_error: float


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("source")
    law = make_law(vocab_size=WORDS + 1, length=LENGTH, mask_token_id=WORDS, sharpness=2.0)
    word_tokenizer(WORDS).save_pretrained(folder / "tokenizer")
    generator = torch.Generator().manual_seed(1)
    drawn = {name: law.draw(count, generator) for name, count in (("train", TRAINING), ("valid", VALIDATION))}
    for name, rows in drawn.items():
        (folder / f"{name}.txt").write_text("".join(f"{line(row)}\n" for row in rows))
    log_probability = law.probability.log()[index(drawn["valid"])]
    marginals = [
        torch.zeros(WORDS, dtype=torch.float64).index_add_(0, law.sequences[:, i], law.probability)
        for i in range(LENGTH)
    ]
    return Source(
        law,
        folder,
        law.entropy / LENGTH,
        sum(-(each * each.log()).sum().item() for each in marginals) / LENGTH,
        -log_probability.mean().item() / LENGTH,
        log_probability.std().item() / math.sqrt(VALIDATION) / LENGTH,
    )


def line(row: Tensor) -> str:
    return " ".join(f"w{token}" for token in row.tolist())


def index(rows: Tensor) -> Tensor:
    """Where each of rows [N, L] stands in `law.sequences`, which count up in base WORDS."""
    return (rows * WORDS ** torch.arange(LENGTH - 1, -1, -1)).sum(1)


def configure(source: Source, command: str, output_dir: Path, *more: object) -> TrainingConfig:
    options = {
        "train_file": source.folder / "train.txt",
        "validation_file": source.folder / "valid.txt",
        "tokenizer_name": source.folder / "tokenizer",
        "config_name": "bert",
        "config_overrides": f"{SIZES},{NO_DROPOUT}",
        "output_dir": output_dir,
        "max_length": LENGTH,
        "per_device_train_batch_size": 64,
        "learning_rate": 5e-3,
        "lr_warmup_steps": 20,
        "weight_decay": 0,
    }
    config = parse(command, [*(f"--{name}={value}" for name, value in options.items()), *map(str, more)])
    assert isinstance(config, TrainingConfig)
    return config


def test_the_law_is_indexed_and_depends_on_all_positions(source: Source) -> None:
    assert torch.equal(index(source.law.sequences), torch.arange(WORDS**LENGTH))
    assert source.entropy < 0.7 * source.marginal_entropy < 0.7 * math.log(WORDS)
    assert source.cross_entropy == pytest.approx(source.entropy, abs=4 * source.cross_entropy_error)


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("mdlm", ["--max_train_steps=200"]),
        pytest.param("udlm", ["--max_train_steps=400"], marks=pytest.mark.slow),
        pytest.param("hybrid", ["--max_train_steps=400", "--loss_weighting=elbo"], marks=pytest.mark.slow),
    ],
)
def test_the_bound_comes_down_to_the_entropy_and_never_below(
    command: str, flags: list[str], source: Source, tmp_path: Path
) -> None:
    bound = train(configure(source, command, tmp_path, "--logging_steps=25", "--eval_steps=50", *flags))
    assert bound is not None and bound.text is not None
    assert (bound.num_sequences, bound.num_tokens, bound.num_times) == (VALIDATION, VALIDATION * LENGTH, 8)
    error, more_error = bound.standard_error, bound.standard_error + source.cross_entropy_error
    assert bound.nelbo >= source.entropy - 4 * error
    assert bound.nelbo >= source.cross_entropy - 4 * more_error
    assert bound.nelbo + 3 * error < source.marginal_entropy
    assert bound.nelbo - source.entropy < 0.5 * (source.marginal_entropy - source.entropy) + 3 * error
    # A word and the space before it are 3 characters; there is none before the first.
    assert bound.text.bits_per_char.value == pytest.approx(bound.bits_per_token * LENGTH / (3 * LENGTH - 1))

    validated = [record for record in journal.read(tmp_path / "history.jsonl") if "validation_nelbo" in record]
    for record in validated:  # of each the same is true: a bound is one at every step
        assert record["validation_nelbo"] >= source.entropy - 4 * record["validation_error"]
    first, last = validated[0], validated[-1]
    assert (first["step"], last["step"]) == (50, int(flags[0].split("=")[1]))
    assert last["validation_nelbo"] == bound.nelbo
    assert last["validation_nelbo"] < first["validation_nelbo"]
