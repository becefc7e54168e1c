"""Words as the literature counts them, the reference's recipe at another length, and commands that the trainer understands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import scripts, wikitext
from benchmarks.results.data import Data
from benchmarks.results.run import Run
from benchmarks.results.wikitext import Figures, count, scaled
from trainer.__main__ import parse
from trainer.config import MDLMConfig, TrainingConfig


def test_the_end_of_a_line_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" = Title = \n\n The cat <unk> . \n", encoding="utf-8")
    assert count(tmp_path / "a.txt") == 3 + 4 + 3


def test_a_word_costs_what_its_tokens_do() -> None:
    """Each token costs ln 2, and a word has three: 2^3; its error by the delta method."""
    found = Figures.of(
        {
            "nelbo": math.log(2),
            "nelbo_error": 0.01,
            "bits_per_byte": 0.5,
            "bits_per_byte_error": 0.1,
            "num_tokens": 300,
        },
        "nelbo",
    )
    word = found.per_word(100)
    assert (word.value, word.error) == (pytest.approx(8), pytest.approx(8 * 3 * 0.01))


def test_the_references_shares_are_its_own_at_its_own_length() -> None:
    assert scaled(1_000_000) == (2500, pytest.approx(0.9999))
    assert scaled(100_000) == (250, pytest.approx(0.999))  # averages over a hundredth of the run
    assert scaled(5) == (1, 0.0)


class Commands(Run):
    """Reads each command instead of running it, and says that the bound is ln 2 a token, the likelihood half of that."""

    def _once(self, name: str, words: list[object]) -> str:
        texts = [str(word) for word in words]
        self.asked[name] = texts
        nats = math.log(2) / (1 if texts[0] == "trainer" else 2)
        figures = {"nelbo": nats, "nelbo_error": 0.001, "nats": nats, "nats_error": 0.001}
        figures |= {"bits_per_byte": 0.5, "bits_per_byte_error": 0.01, "num_tokens": 400, "perplexity": math.exp(nats)}
        if texts[0] == "trainer":
            self.configs[name] = parse(texts[1], texts[2:])
            return json.dumps({"validation": figures, "num_parameters": 7})
        return json.dumps(
            {**figures, "pieces": figures, "num_parameters": 8, "tests": {"test.txt": {**figures, "pieces": figures}}}
        )

    asked: dict[str, list[str]]
    configs: dict[str, Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Of full size, whose text is 100 words."""
    for name in ("train", "valid", "test"):
        path = tmp_path / "wikitext-2" / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("a b c\n" * 25, encoding="utf-8")
    monkeypatch.setattr(Data, "file", lambda self, name: self.root / name)
    commands = Commands(Data(tmp_path), tmp_path / "work", "full")
    commands.asked, commands.configs = {}, {}
    return commands


def test_all_of_wikitext_sees_the_same_tokens_and_is_measured_alike(run: Commands) -> None:
    section = wikitext.section(run)
    training = {name: each for name, each in run.configs.items() if isinstance(each, TrainingConfig)}
    assert len(training) == 5
    budget = {
        (each.max_train_steps, each.per_device_train_batch_size, each.max_length, each.packing)
        for each in training.values()
    }
    judge = run.asked["wikitext/autoregressive"]
    told = {judge[at]: judge[at + 1] for at in range(1, len(judge) - 1)}
    assert budget == {(int(told["--max_train_steps"]), int(told["--batch_size"]), int(told["--context"]), True)}
    measured = [each for name, each in run.configs.items() if name.endswith(("-valid", "-test"))]
    assert len(measured) == 10 and len({(each.max_length, each.packing, each.num_times) for each in measured}) == 1
    said, table, _ = section.parts
    assert isinstance(table, wikitext.Table) and isinstance(said, str)
    rows = {(row[0], row[2]): row for row in table.rows}
    assert rows["MDLM, bound", "valid"][3:] == ("0.693 ± 0.001", "2.0 ± 0.0", "16 ± 0", "0.500 ± 0.010")
    assert rows["autoregressive", "test"][3:6] == ("0.347 ± 0.001", "1.4 ± 0.0", "4 ± 0")
    said = " ".join(said.split())
    assert "has 4 (valid) and 4 (test) a word." in said
    assert "(about 16,384.0 times the train split)" in said  # 6,553,600 tokens, four a word, of 100 words


def test_the_scripts_defaults_are_kept_but_for_what_the_page_says(run: Commands) -> None:
    section = scripts.section(run)
    config = run.configs["scripts/mdlm"]
    said = {*scripts.CUT["full"], "config_name", "tokenizer_name", "train_file", "output_dir", "report_to"}
    said |= {"resume_from_checkpoint", "checkpoints_total_limit"}  # where it is kept
    changed = {
        name
        for name, field in MDLMConfig.model_fields.items()
        if getattr(config, name) != field.get_default(call_default_factory=True)
    }
    assert changed - {"model_name_or_path"} <= said
    assert {each.process for name, each in run.configs.items() if name in ("scripts/mdlm", "scripts/udlm", "scripts/hybrid")} == {
        "absorbing", "uniform", "hybrid"
    }  # fmt: skip
    text, table = section.parts
    assert "`--max_length 64`" in str(text) and isinstance(table, scripts.Table) and len(table.rows) == 6
