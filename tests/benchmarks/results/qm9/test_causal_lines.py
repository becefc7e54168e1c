"""The autoregressive baseline learns lines with their ends, and says how likely they are."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.results.qm9.causal_lines import main
from trainer.data.tokenizer import build_smiles_tokenizer


def test_lines_of_two_kinds_are_learnt_with_their_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One in four is the long one: its share, and the entropy of the choice, are what there is to learn."""
    (tmp_path / "train.txt").write_text("\n".join(["CO"] * 48 + ["CCCN"] * 16))
    build_smiles_tokenizer(["CO", "CCCN"]).save_pretrained(tmp_path / "tokenizer")
    flags = {
        "train_file": "train.txt",
        "validation_file": "train.txt",
        "tokenizer_name": "tokenizer",
        "output_dir": "ar",
    }
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_length": 8, "batch_size": 64, "num_samples": 400}
    course = {"max_train_steps": 80, "learning_rate": 2e-2, "warmup_steps": 5}
    words = [f"--{name}={tmp_path / value}" for name, value in flags.items()]
    words += [f"--{name}={value}" for name, value in {**sizes, **course}.items()]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found["nats"] == pytest.approx(entropy, abs=0.02)
    texts = Counter(each["text"] for each in found["samples"])
    assert texts["CO"] + texts["CCCN"] >= 390 and texts["CCCN"] == pytest.approx(100, abs=4 * math.sqrt(75))
    assert main(words) == 0, "trained once"
    assert json.loads(capsys.readouterr().out) == found
