"""How much source text the tokens of a sequence stand for: what makes bits a character and bits a byte of bits a token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from token_diffusion.facts import Frame, frame_of
from token_diffusion.text.plain import plain

from .cutting import cut
from .reading.documents import Documents, Piece
from .sequences import pack, separator, special, truncated
from .tokens import batches

IDS, CHARS, BYTES = range(3)
"""Columns of rows int64 [n, 3], one a token: the id, and the characters and UTF-8 bytes that it stands for."""

Encoded = tuple[Piece, tuple[list[int], list[int]]]
"""A piece with its token ids and the characters at which these end."""


@dataclass(frozen=True)
class Spelling:
    """Of each sequence: the characters and UTF-8 bytes of source text that its counted tokens stand for, int64 [n].

    A token stands for what lies between the end of the token before it and its own end, so that white space that the
    tokenizer drops, and capitals that it lowers, count as they were written. `num_given_chars` belong to special tokens
    (unknown words above all), which are given and not predicted, and are in neither count. `exact` says whether
    decoding gives the source text back; if not, the bits are those of what the tokenizer keeps of it.
    """

    chars: np.ndarray
    utf8_bytes: np.ndarray
    num_given_chars: int
    exact: bool


def spell(
    tokenizer: PreTrainedTokenizerBase,
    documents: Documents,
    ids: Sequence[np.ndarray],
    *,
    packing: bool,
    max_length: int,
    frame: Frame | None = None,
    learnt: frozenset[int] = frozenset(),
    fill: int | None = None,
) -> Spelling | None:
    """The spelling of `ids`, which `sequences.tokenize` made of `documents`; None if the tokenizer cannot tell (a slow one)."""
    if not tokenizer.is_fast:
        return None
    if frame is None:
        frame = Frame() if packing else frame_of(tokenizer)
    speller = Speller(tokenizer, learnt)
    about = documents, max_length, frame
    rows = speller.packed(*about) if packing else speller.framed(*about, fill)
    given = 0
    kept: list[np.ndarray] = []
    for row in rows:
        if len(kept) == len(ids):  # the first ones only were asked for
            break
        counted = ~np.isin(row[:, IDS], speller.special)
        counted[: len(frame.prefix)] = counted[len(row) - len(frame.suffix) :] = False
        given += int(row[~counted, CHARS].sum())
        if counted.any():
            assert np.array_equal(row[:, IDS], ids[len(kept)]), "not the sequences of these documents"
            kept.append(row[counted].sum(axis=0))
    assert len(kept) == len(ids), "not the sequences of these documents"
    sums = np.array(kept)
    return Spelling(sums[:, CHARS], sums[:, BYTES], given, speller.exact)


class Speller:
    """Goes through documents token by token; `exact` is true as long as decoding has given them back."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, learnt: frozenset[int] = frozenset()) -> None:
        self.tokenizer, self.special, self.exact = tokenizer, special(tokenizer, learnt), True
        self.hidden = set(tokenizer.all_special_ids)

    def packed(self, documents: Documents, max_length: int, frame: Frame) -> Iterator[np.ndarray]:
        """The rows [L, 3] of each sequence of the stream."""
        before, after = _around(frame)
        for rows in pack(self._stream(documents), max_length - len(frame)):
            yield np.concatenate([before, rows, after])

    def _stream(self, documents: Documents) -> Iterator[np.ndarray]:
        gap = np.array([[separator(self.tokenizer), 0, 0]])
        started = False
        for _, pieces in groupby(self._encoded(documents), lambda encoded: encoded[0].document):
            for number, (rows, same) in enumerate(self._parts(pieces, to_the_end=True)):
                if started and number == 0:
                    yield gap
                started, self.exact = True, self.exact and same
                yield rows

    def framed(
        self, documents: Documents, max_length: int, frame: Frame, fill: int | None = None
    ) -> Iterator[np.ndarray]:
        """The rows [L, 3] of each document's sequence; `fill` stands for no text."""
        before, after = _around(frame)
        for _, pieces in groupby(self._encoded(documents), lambda encoded: encoded[0].document):
            parts = list(self._parts(pieces, to_the_end=False))
            if not parts:
                continue
            rows = np.concatenate([rows for rows, _ in parts])
            (start,), (end,) = truncated(self.tokenizer, np.array([0]), np.array([len(rows)]), max_length - len(frame))
            # A document that was cut off, perhaps within a character, says nothing.
            self.exact = self.exact and (bool(end - start < len(rows)) or all(same for _, same in parts))
            behind = 0 if fill is None else max_length - len(frame) - int(end - start)
            yield np.concatenate([before, rows[start:end], after, *_around(Frame((fill or 0,) * behind))])

    def _encoded(self, documents: Documents) -> Iterator[Encoded]:
        for batch in batches(cut(documents.pieces(), self.tokenizer)):
            found = plain(self.tokenizer).ids_and_ends([piece.text for piece in batch])
            yield from zip(batch, found, strict=True)

    def _parts(self, pieces: Iterable[Encoded], to_the_end: bool) -> Iterator[tuple[np.ndarray, bool]]:
        """A document's rows piece by piece, and whether decoding gives the piece back.

        to_the_end: its last token stands for all that comes after it, too.
        """
        held, left = None, np.zeros(2, dtype=np.int64)
        context: list[int] = []
        for piece, (ids, ends) in pieces:
            place = np.maximum.accumulate(np.array([0, *ends], dtype=np.int64))
            sizes = np.stack([place, _utf8_sums(piece.text)[place]], axis=1)
            whole = np.array([len(piece.text), len(piece.text.encode("utf-8", "surrogatepass"))])
            if not ids:
                left = left + whole
                continue
            rows = _rows(ids, np.diff(sizes, axis=0))
            rows[0, CHARS:] += left
            left = whole - sizes[-1]
            if held is not None:
                yield held
            held = rows, self._decoded([*context, *ids]) == self._decoded(context) + piece.text
            context = ids[-1:]
        if held is not None:
            held[0][-1, CHARS:] += left if to_the_end else 0
            yield held

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode([token for token in ids if token not in self.hidden]))


def _around(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a frame's two sides: they stand for no text."""
    before, after = (_rows(ids, np.zeros((len(ids), 2))) for ids in (frame.prefix, frame.suffix))
    return before, after


def _rows(ids: Sequence[int], sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.array(ids, dtype=np.int64).reshape(-1, 1), sizes.astype(np.int64)], axis=1)


def _utf8_sums(text: str) -> np.ndarray:
    """The bytes of the first n characters in UTF-8, int64 [len(text) + 1]."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([[0], np.cumsum(sizes)])
