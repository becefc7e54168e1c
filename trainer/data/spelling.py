"""How much source text the tokens of a sequence stand for: what makes bits a character and bits a byte of bits a token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from .corpus import pack, separator

BATCH = 1000


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
    documents: Sequence[str],
    ids: Sequence[np.ndarray],
    *,
    packing: bool,
    max_length: int,
) -> Spelling | None:
    """The spelling of `ids`, which `corpus.tokenize` made of `documents`; None if the tokenizer cannot tell (a slow one)."""
    if not tokenizer.is_fast:
        return None
    texts = list(_tokenized(tokenizer, documents, packing, max_length))
    columns = [[text.ids for text in texts], [text.chars for text in texts], [text.utf8_bytes for text in texts]]
    if packing:
        gaps = (separator(tokenizer), 0, 0)
        columns = [list(pack(column, gap, max_length)) for column, gap in zip(columns, gaps, strict=True)]
    special = np.array(sorted(set(tokenizer.all_special_ids)))
    chars, utf8_bytes, given = [], [], 0
    kept: list[np.ndarray] = []
    for tokens, token_chars, token_bytes in zip(*columns, strict=True):
        if len(kept) == len(ids):  # the first ones only were asked for
            break
        counted = ~np.isin(tokens, special)
        given += int(token_chars[~counted].sum())
        if counted.any():
            kept.append(tokens)
            chars.append(int(token_chars[counted].sum()))
            utf8_bytes.append(int(token_bytes[counted].sum()))
    assert len(kept) == len(ids) and all(map(np.array_equal, kept, ids)), "not the sequences of these documents"
    return Spelling(np.array(chars), np.array(utf8_bytes), given, all(text.exact for text in texts))


@dataclass(frozen=True)
class _Tokens:
    """A document's tokens, and the characters and bytes that each stands for: int [n] each."""

    ids: np.ndarray
    chars: np.ndarray
    utf8_bytes: np.ndarray
    exact: bool


def _tokenized(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], packing: bool, max_length: int
) -> Iterator[_Tokens]:
    options: dict[str, Any] = {"truncation": True, "max_length": max_length}
    if packing:
        options = {"add_special_tokens": False}
    special = set(tokenizer.all_special_ids)
    for start in range(0, len(documents), BATCH):
        chunk = list(documents[start : start + BATCH])
        encoded = tokenizer(chunk, verbose=False, return_offsets_mapping=True, **options)
        for text, ids, offsets in zip(chunk, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            ends = np.maximum.accumulate(np.array([end for _, end in offsets], dtype=np.int64))
            if packing and len(ends):
                ends[-1] = len(text)
            # A document that was cut off, perhaps within a character, says nothing.
            whole = not len(ends) or ends[-1] == len(text)
            exact = not whole or tokenizer.decode([token for token in ids if token not in special]) == text
            lengths = np.concatenate([[0], np.cumsum(_utf8_lengths(text))])
            yield _Tokens(np.array(ids), np.diff(ends, prepend=0), np.diff(lengths[ends], prepend=0), exact)


def _utf8_lengths(text: str) -> np.ndarray:
    """The bytes of each character in UTF-8, int64 [len(text)]."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
