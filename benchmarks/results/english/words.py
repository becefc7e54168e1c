"""Words: which of a text's a corpus knows, and which stretches of them stand in it.

A word is what stands between white space, dashes and dots, lower-cased, punctuation stripped.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import islice
from pathlib import Path

from trainer.data.corpus import read_documents

APART = re.compile(r"\s+|-{2,}|\.{2,}")

Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Those of a text; empty ones are left out."""
    stripped = (part.strip(string.punctuation).lower() for part in APART.split(text))
    return [word for word in stripped if word]


def grams(found: Sequence[str], n: int) -> Iterator[Gram]:
    """All stretches of n words."""
    return zip(*(islice(found, start, None) for start in range(n)), strict=False)


class Corpus:
    """The words of text files in their order. Raises `ParameterError` for what cannot be read."""

    def __init__(self, flag: str, files: Sequence[Path]) -> None:
        documents = read_documents(flag, files, packing=True)
        same: dict[str, str] = {}  # a word is kept once, however often it stands there
        self._files = [[same.setdefault(word, word) for word in words(text)] for text in documents]
        self.vocabulary = frozenset(same)

    def standing(self, wanted: Set[Gram], n: int) -> set[Gram]:
        """Which stretches of n words stand in it, lines and all, within a file."""
        return {gram for found in self._files for gram in grams(found, n) if gram in wanted}

    def known(self, found: Iterable[str]) -> int:
        """How many of these words it has."""
        return sum(word in self.vocabulary for word in found)
