"""Words and what stands in a corpus, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results.english.words import Corpus, grams, words


def test_a_word_is_what_stands_between_white_space_dashes_and_dots() -> None:
    assert words(' "Well--yes," said Tom\'s ice-cold aunt ... and\nleft. - ') == (
        ["well", "yes", "said", "tom's", "ice-cold", "aunt", "and", "left"]
    )
    assert words(" .. -- ! ") == []


def test_stretches_of_words() -> None:
    assert list(grams(["a", "b", "c"], 2)) == [("a", "b"), ("b", "c")]
    assert list(grams(["a"], 2)) == []


def test_a_stretch_stands_in_a_file_over_its_lines_and_not_over_two_files(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("The cat sat.\nIt slept,\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("and woke.\n", encoding="utf-8")
    corpus = Corpus("text", [tmp_path / "one.txt", tmp_path / "two.txt"])
    assert corpus.vocabulary == {"the", "cat", "sat", "it", "slept", "and", "woke"}
    assert corpus.known(["the", "the", "dog"]) == 2
    wanted = set(grams(words("Cat sat it slept and woke"), 2))
    assert corpus.standing(wanted, 2) == {("cat", "sat"), ("sat", "it"), ("it", "slept"), ("and", "woke")}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^text must .*missing\.txt"):
        Corpus("text", [tmp_path / "missing.txt"])
