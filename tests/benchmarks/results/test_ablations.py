"""Each row is one change of its base, and tables say what lies between runs of the same seed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from benchmarks.results import ablations
from benchmarks.results.ablations import ABLATIONS, BASE, RECIPE, Row, framed, table
from benchmarks.results.data import Data
from benchmarks.results.estimates import Spread
from benchmarks.results.flags import overrides, words
from benchmarks.results.run import Run
from tests.tiny import word_tokenizer
from trainer.__main__ import main, parse

ROWS = {row.name: row for row in (*ABLATIONS, *RECIPE)}


def asked(row: Row) -> dict[str, object]:
    return {"command": row.command, "vocab_size": row.vocab_size, "framed": row.framed, **BASE, **row.flags}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_a_row_differs_from_the_one_that_it_is_compared_with_in_one_thing(row: Row) -> None:
    mine, other = asked(row), asked(ROWS[row.against])
    changed = {name for name in mine if mine[name] != other.get(name)}
    lengths = {"max_length", "per_device_train_batch_size"}  # together: as many tokens a step
    assert changed == lengths if changed & lengths else len(changed) == (row.name != row.against)
    assert int(str(mine["max_length"])) * int(str(mine["per_device_train_batch_size"])) == 32 * 128


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_the_trainer_understands_a_row(row: Row, tmp_path: Path) -> None:
    needed = {"train_file": tmp_path / "a.txt", "tokenizer_name": tmp_path}
    parse(row.command, [str(word) for word in words(BASE | row.flags | needed)])


def test_layers_of_another_depth_cost_the_same() -> None:
    def cost(shape: dict[str, int]) -> int:
        """Multiplications a token of ModernBERT's layers: attention's four products, and the gated MLP's three."""
        width = shape["hidden_size"]
        return shape["num_hidden_layers"] * (4 * width**2 + 3 * width * shape["intermediate_size"])

    for shape in (ablations.WIDE, ablations.DEEP):
        assert cost(shape) == pytest.approx(cost(ablations.SHAPE), rel=0.02)


def test_differences_are_those_of_the_same_seed() -> None:
    def runs(*values: float) -> list[dict[str, Any]]:
        return [{"bits_per_byte": value, "parameters": 1234} for value in values]

    rows = [Row("base", "as it is"), Row("other", "changed")]
    found = table(rows, {"base": runs(2.0, 2.4), "other": runs(1.9, 2.26)})
    assert found.rows == [
        ("**base**: as it is", "1,234", "2.2000 ± 0.2000", "-", "-"),
        ("**other**: changed", "1,234", "2.0800 ± 0.1800", "base", "-0.1200 ± 0.0200"),
    ]
    assert Spread([1.0]).text(2) == "1.00 ± 0.00" and Spread([0.25, 0.75]).text(1, signed=True) == "+0.5 ± 0.2"


def test_what_a_text_costs_by_the_frequencies_of_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word_tokenizer(3).save_pretrained(tmp_path / "tokenizer")  # w0, w1, w2 and five special tokens
    for name, text in ((ablations.TRAIN, "w0 w0\nw1\n"), (ablations.HELD_OUT, "w0\nw2 w2\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(ablations, "tokenizer_of", lambda run, vocab_size: tmp_path / "tokenizer")
    monkeypatch.setattr(Data, "file", lambda self, name: self.root / name)
    bits = math.log2(11 / 3) + 2 * math.log2(11 / 1)  # one of each of the eight beside the three that were learnt
    assert ablations.unigram(Run(Data(tmp_path), tmp_path, "full")) == pytest.approx(bits / 9)


def test_flags_as_they_are_typed() -> None:
    assert words({"packing": True, "seed": 1}) == ["--packing", "--seed", 1]
    assert overrides(a=1, b="x") == "a=1,b=x"


def test_a_framed_run_starts_from_random_weights_in_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one step of the run before it moves nothing, and both folders have the frame."""

    def in_this_process(typed: str, words: list[object], log: Path) -> str:
        AcceleratorState._reset_state(True)  # as in a process of its own
        try:
            assert main([str(word) for word in words[1:]]) == 0, typed
        finally:
            AcceleratorState._reset_state(True)
        return ""

    monkeypatch.setattr("benchmarks.results.run._stdout", in_this_process)
    text = tmp_path / "gutenberg-simple" / "valid.txt"
    text.parent.mkdir()
    text.write_text("the cat saw the moon\n" * 8, encoding="utf-8")
    monkeypatch.setattr(Data, "file", lambda self, name: self.root / name)
    run = Run(Data(tmp_path), tmp_path / "work", "small")
    tokenizer = run.trainer("tokenizer", "tokenizer", "--train_file", text, "--vocab_size", 270)
    shape = overrides(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    given = BASE | {"tokenizer_name": tokenizer, "config_overrides": shape, "seed": 5}
    weights = []
    for rate in (1e-3, 1e-1):
        flags = framed(run, f"rate-{rate}", given | {"learning_rate": rate})
        folder = Path(str(flags["model_name_or_path"]))
        assert "config_name" not in flags and '"prefix"' in (folder / "token_diffusion.json").read_text("utf-8")
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    cut = {"train_file": text, "max_length": 8, "max_train_steps": 1}
    del flags["lr_warmup_ratio"]
    folder = run.trainer("framed", "mdlm", "--packing", *words(flags | cut))
    assert len(json.loads((folder / "token_diffusion.json").read_text("utf-8"))["frame"]["prefix"]) == 1


@pytest.mark.slow
def test_every_row_trains_and_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published but for the steps, on a text of a few lines."""

    def in_this_process(typed: str, words: list[object], log: Path) -> str:
        output = tmp_path / "figures.json"
        asked = [str(word) for word in words[1:]]
        assert main([*asked, *(["--output_file", str(output)] if asked[0] == "evaluate" else [])]) == 0, typed
        return json.dumps(json.loads(output.read_text("utf-8"))) if asked[0] == "evaluate" else ""

    for file in (ablations.TRAIN, ablations.HELD_OUT):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("the cat saw the moon and did not know what it was\n" * 300, encoding="utf-8")
    monkeypatch.setattr("benchmarks.results.run._stdout", in_this_process)
    monkeypatch.setattr(Data, "file", lambda self, name: self.root / name)
    monkeypatch.setitem(ablations.STEPS, "full", 2)
    monkeypatch.setitem(ablations.SEEDS, "full", (0,))
    run = Run(Data(tmp_path), tmp_path / "work", "full")
    sections = ablations.section(run), ablations.recipe(run)
    tables = [part for section in sections for part in section.parts if isinstance(part, ablations.Table)]
    assert [len(table.rows) for table in tables] == [len(ABLATIONS), len(RECIPE)]
    assert all(1 < float(str(row[2]).partition(" ")[0]) < 9 for table in tables for row in table.rows)
