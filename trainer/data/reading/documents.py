"""What a document is, wherever text comes from and whether it is stored or streamed; read anew each time, never held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from token_diffusion.errors import ParameterError

from .files import EMPTY, is_table, read_cells, read_chunks, read_lines
from .labels import FoundLabels, Label, Labels, as_label, read_labels


class Piece(NamedTuple):
    """A stretch of a document: the document is its `file`'s (index) and its number there, the piece has a number in it.

    label: of the document, where such a column is read.
    """

    text: str
    document: tuple[int, int]
    number: int = 0
    label: Label | None = None


def read_pieces(
    flag: str,
    files: Iterable[tuple[int, Path]],
    *,
    packing: bool,
    text_column: str = "text",
    label_column: str | None = None,
) -> Iterator[Piece]:
    """The documents of files, each with its index: a row of a table; a line of text or, with `packing`, a whole text file.

    label_column: of tables, in which every row that has text has a label; not together with `packing`.

    Blank rows and lines are no documents. Raises `ParameterError` for a file that cannot be read, or in which there is no text.
    """
    for index, path in files:
        blank = True
        for piece in _file_pieces(flag, index, path, packing, text_column, label_column):
            blank = blank and not piece.text.strip()
            yield piece
        if blank:
            raise ParameterError(flag, EMPTY, str(path))


def _file_pieces(
    flag: str, index: int, path: Path, packing: bool, column: str, label_column: str | None
) -> Iterator[Piece]:
    if label_column is not None:
        cells = read_labels(flag, path, label_column)
        return labelled_pieces(read_cells(flag, path, column), cells, path.name, index)
    if packing and not is_table(path):
        return (Piece(text, (index, 0), number) for number, text in enumerate(read_chunks(flag, path)))
    return row_pieces(read_cells(flag, path, column) if is_table(path) else read_lines(flag, path), index)


def row_pieces(texts: Iterable[str], file: int = 0) -> Iterator[Piece]:
    """A document for each text that is not blank."""
    return (Piece(text, (file, number)) for number, text in enumerate(texts) if not is_blank(text))


def labelled_pieces(texts: Iterable[str], cells: Iterable[object], source: str, file: int = 0) -> Iterator[Piece]:
    """The same with labels: `cells` has one for each text. Raises `ParameterError` for what is none."""
    for number, (text, cell) in enumerate(zip(texts, cells, strict=True)):
        if not is_blank(text):
            yield Piece(text, (file, number), label=as_label(cell, f"row {number + 1} of {source}"))


def is_blank(text: str) -> bool:
    return not text.strip()


class Survey(NamedTuple):
    """What is known of text once it has been read: `digest` is the same for the same documents and for no others.

    labels: those of all documents, where they have some.
    """

    digest: str
    num_documents: int
    num_chars: int
    labels: FoundLabels | None = None


@dataclass(frozen=True)
class Documents:
    """Documents that `read` yields, piece by piece; of them those (or the characters) from `start` to `stop`.

    names: of their labels, in an order of their own.
    """

    read: Callable[[], Iterable[Piece]]
    unit: Literal["documents", "characters"] = "documents"
    start: int = 0
    stop: int | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: Sequence[str]) -> Documents:
        """Each text a document, but those that are blank."""
        return cls(lambda: row_pieces(texts))

    def pieces(self) -> Iterator[Piece]:
        """In their order. What lies before `start` is read and left out; reading ends at `stop`."""
        if self.start == 0 and self.stop is None:
            yield from self.read()
            return
        place, before = 0, None
        for piece in self.read():
            length = len(piece.text) if self.unit == "characters" else int(piece.document != before)
            first, before = place, piece.document
            place += length
            if self.unit == "documents":
                first = place - 1
                text = piece.text if first >= self.start else ""
            else:
                stop = None if self.stop is None else self.stop - first
                text = piece.text[max(self.start - first, 0) : stop]
            if self.stop is not None and first >= self.stop:
                return
            if text:
                yield piece._replace(text=text)

    def __iter__(self) -> Iterator[str]:
        """Whole documents."""
        for _, pieces in groupby(self.pieces(), attrgetter("document")):
            yield "".join(piece.text for piece in pieces)

    @cached_property
    def survey(self) -> Survey:
        """Reads all that `read` yields, once. Raises what reading raises."""
        digest, num_documents, num_chars, found = blake2b(digest_size=16), 0, 0, FoundLabels(self.names)
        for _, pieces in groupby(self.read(), attrgetter("document")):
            length, label = 0, None
            for piece in pieces:
                length, label = length + len(piece.text), piece.label
                digest.update(piece.text.encode("utf-8", "surrogatepass"))
            # Each document ends with its length: others that are the same end to end have another digest.
            digest.update(length.to_bytes(8, "little"))
            num_documents, num_chars = num_documents + 1, num_chars + length
            if label is not None:
                found.add(label)
        return Survey(digest.hexdigest(), num_documents, num_chars, found if found.codes else None)

    def label_ids(self, labels: Labels) -> np.ndarray:
        """What a network is told of each document, int64 [n]. Raises `ParameterError` for a label that it does not know."""
        found = self.survey.labels
        assert found is not None and self.unit == "documents"
        ids = [labels.id_of(Label(value, where)) for value, where in found.first.items()]
        return np.array(ids, dtype=np.int64)[np.asarray(found.codes)[self.start : self.stop]]

    @property
    def identity(self) -> tuple[str, str, int, int | None]:
        """The same for the same text in the same documents, and for no other."""
        return self.survey.digest, self.unit, self.start, self.stop

    def split(self, percent: float, unit: Literal["documents", "characters"]) -> tuple[Documents, Documents]:
        """All but the last `percent` percent, and these. Raises `ParameterError` if a side would be empty."""
        total = self.survey.num_documents if unit == "documents" else self.survey.num_chars
        kept = total - round(total * percent / 100)
        if not 0 < kept < total:
            raise ParameterError("validation_split_percentage", "leave text on both sides of the split", percent)
        parts = replace(self, unit=unit, stop=kept), replace(self, unit=unit, start=kept)
        for part in parts:
            part.__dict__["survey"] = self.survey  # of all there is to read, which they share
        return parts
