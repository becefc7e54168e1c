"""The table of simple English: which aims a row misses, and the commands that it comes of."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.decoders.judge import make_parser as judge_parser
from benchmarks.results.data import Data
from benchmarks.results.english.part import cells, missed, section, table
from benchmarks.results.english.reading import make_parser as reading_parser
from benchmarks.results.run import Run
from tests.benchmarks.results.english.test_cards import READ, SAMPLES, TEXT, measured
from trainer.__main__ import COMMANDS


def test_an_aim_that_is_missed_is_said_with_by_how_much() -> None:
    row = measured("free", 128)
    assert missed(row) == ["words by 1.8 points", "perplexity by a factor of 1.40", "a sample's entropy by 2.0 points"]
    good = row | {"samples": SAMPLES | {"known": 0.97}, "perplexity_ratio": 2.0, "sample_entropy_off": 0.05}
    assert missed(good) == []
    assert missed(good | {"unigram_entropy_off": -0.06}) == ["unigram entropy by 1.0 points"]


def test_cells_of_samples_and_of_text() -> None:
    assert cells(TEXT) == ["99.0 ± 0.4 %", "50.0 ± 4.0", "", "5.00", "4.00", "0.800", "2.0 ± 1.0 %"]
    assert cells(SAMPLES, measured("free", 1)) == (
        ["95.2 ± 0.4 %", "140.0 ± 4.0", "2.80 ± 0.30", "5.00 (+1.4 %)", "4.00 (-7.0 %)", "0.800", "0.0 ± 1.0 %"]
    )
    alone = TEXT | {"perplexity_error": None, "copied": None, "distinct_2": None}
    assert cells(alone)[1:] == ["50.0", "", "5.00", "4.00", "", "- %"]


def test_rows_go_kind_by_kind_below_held_out_text() -> None:
    other: dict[str, Any] = copy.deepcopy(READ)
    del other["measured"][1]
    rows = [(row[0], row[1]) for row in table({"mdlm": READ, "udlm": other}).rows]
    assert rows == [
        ("held-out text", ""),
        ("mdlm, free", 128),
        ("mdlm, free", "first-hitting"),
        ("udlm, free", 128),
        ("held-out, after its first quarter", ""),
        ("mdlm, prompted", 128),
        ("udlm, prompted", 128),
        ("held-out, its middle half", ""),
        ("mdlm, infilled", 128),
        ("udlm, infilled", 128),
    ]


class Named(Data):
    """Files that are not looked for."""

    def file(self, name: str) -> Path:
        return self.root / name


@dataclass
class Typed(Run):
    """Notes what would be typed, and makes nothing."""

    words: list[str] = field(default_factory=list)

    def _once(self, name: str, words: list[object]) -> str:
        self.words.append(" ".join(map(self._word, words)))
        said = "{'loss': '4.2'}\n"  # as transformers' trainer prints it before the figures
        return said + json.dumps(READ, indent=1)


@pytest.mark.parametrize("size", ["small", "full"])
def test_the_commands_that_the_table_comes_of(size: Any, tmp_path: Path) -> None:
    run = Typed(Named(tmp_path / "data"), tmp_path / "out", size)
    assert "**Aims**" in section(run).markdown("")
    assert not [words for words in run.words if str(tmp_path) in words]
    read = [words for words in run.words if words.startswith("benchmarks.results.english.reading")]
    assert len(read) == 3
    for words in read:
        assert "--judge OUT/judge-english" in words
        assert (
            "--text DATA/storybooks-ccby/train.txt DATA/storybooks-ccby/valid.txt DATA/storybooks-ccby/test.txt"
            in words
        )
    kinds = [words.split()[:2] for words in run.words[:-3]]
    if size == "small":
        assert kinds[:4] == [["trainer", command] for command in ("tokenizer", "mdlm", "udlm", "hybrid")]
        assert kinds[4][0] == "benchmarks.decoders.judge" and len(kinds) == 5
        assert "--checkpoint_path OUT/mdlm-english/final" in read[0]
    else:
        assert [kind[0] for kind in kinds] == ["benchmarks.decoders.judge"]
        assert read[0].count("--text") == 3 and "--output checkpoints/mdlm-" in read[0]


def test_flags_are_those_of_the_commands(tmp_path: Path) -> None:
    """What is typed is understood: each command's own parser takes it."""
    for size, num_read in (("small", 3), ("full", 3)):
        run = Typed(Named(tmp_path / "data"), tmp_path / "out", size)  # type: ignore[arg-type]
        section(run)
        parsers = {"benchmarks.decoders.judge": judge_parser(), "benchmarks.results.english.reading": reading_parser()}
        parsed = [parsers[module].parse_args(rest) for module, *rest in map(str.split, run.words) if module in parsers]
        assert len(parsed) == num_read + 1
        for module, command, *rest in map(str.split, run.words):
            if module == "trainer":
                flags = {word[2:] for word in rest if word.startswith("--")}
                assert flags <= set(COMMANDS[command].model_fields)
