"""Tokenised once and not again; what else is other tokens, is another name in the cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase

from tests.tiny import byte_tokenizer, wordpiece_tokenizer
from token_diffusion.errors import ParameterError
from token_diffusion.text.plain import plain
from trainer.data import cutting, tokens
from trainer.data.reading.documents import Documents
from trainer.data.tokens import TokenisedText, tokenised

TEXT = "To be, or not to be,\n\n  that is the question:\nWhether 'tis nobler in the mind\n" * 4
TEXTS = [TEXT[i % 50 :] for i in range(20)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tokens, "MIN_CACHED_CHARS", 100)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "token-diffusion"


def documents_of(text: TokenisedText) -> list[list[int]]:
    return [text.tokens[start:end].tolist() for start, end in zip(text.starts, text.ends, strict=True)]


@pytest.mark.parametrize("separator_id", [None, 3])
def test_documents_are_their_plain_tokens(separator_id: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of any size, cut wherever they can be; those without a token are none."""
    monkeypatch.setattr(tokens, "BATCH_CHARS", 500)
    monkeypatch.setattr(cutting, "PIECE_CHARS", 60)
    monkeypatch.setattr(cutting, "CONTEXT", 30)
    tokenizer = wordpiece_tokenizer()
    texts = ["the cat", "\u200b\x01", *TEXTS, "\x00", "on the mat [MASK]"]
    found = tokenised(tokenizer, Documents.of(texts), separator_id)
    expected = [ids for ids in plain(tokenizer).ids(texts) if ids]
    assert documents_of(found) == expected and len(expected) == 22
    gaps = [] if separator_id is None else found.tokens[found.ends[:-1]].tolist()
    assert set(gaps) <= {3} and len(found.tokens) == sum(map(len, expected)) + len(gaps)


@pytest.mark.parametrize("num_threads", [None, 1, 2])
def test_much_text_is_tokenised_once(num_threads: int | None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, documents, before = byte_tokenizer(), Documents.of(TEXTS), dict(os.environ)
    made = tokenised(tokenizer, documents, 3, num_threads)
    assert len(list(cache.iterdir())) == 2 and os.environ == before
    monkeypatch.setattr(tokens, "encode", None)  # from now on there is nothing to tokenise with
    found = tokenised(tokenizer, documents, 3, num_threads)
    assert documents_of(made) == documents_of(found) == plain(tokenizer).ids(TEXTS)
    assert isinstance(found.tokens, np.memmap)
    for other, separator_id in ((Documents.of(TEXTS[1:]), 3), (Documents.of(["".join(TEXTS)]), 3), (documents, None)):
        with pytest.raises(TypeError):
            tokenised(tokenizer, other, separator_id)


def test_a_nul_between_documents_is_no_end(cache: Path) -> None:
    """Of two texts one must not get the other's tokens."""
    tokenizer = byte_tokenizer()
    for texts in (
        ["the cat" * 20 + "\0the dog" * 20],
        ["the cat" * 20, "the dog" * 20],
        ["the cat" * 20 + "the dog" * 20],
    ):
        assert documents_of(tokenised(tokenizer, Documents.of(texts))) == plain(tokenizer).ids(texts)


def _lowered(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


CHANGES: dict[str, Callable[[PreTrainedTokenizerBase], object]] = {
    "as it is": lambda tokenizer: None,
    "another normalizer": _lowered,
    "a control token more": lambda tokenizer: tokenizer.add_tokens(["the"], special_tokens=True),
    "a token more": lambda tokenizer: tokenizer.add_tokens(["the"]),
    "another role": lambda tokenizer: setattr(tokenizer, "unk_token", "[SEP]"),
}


def test_all_that_changes_tokens_is_in_the_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, names = Documents.of(TEXTS), set()
    for change in CHANGES.values():
        tokenizer = byte_tokenizer()
        change(tokenizer)
        names.add(tokens._key(tokenizer, documents, None))
    plainer = byte_tokenizer()
    for part in (*documents.split(20, "documents"), *documents.split(20, "characters")):
        names.add(tokens._key(plainer, part, None))
    monkeypatch.setattr("tokenizers.__version__", "0")
    names.add(tokens._key(plainer, documents, None))
    names.add(tokens._key(wordpiece_tokenizer(), documents, None))
    assert len(names) == len(CHANGES) + 6


def test_a_call_of_the_tokenizer_changes_no_name() -> None:
    """transformers leaves its truncation and padding in the tokenizer, which ours does not use."""
    tokenizer, documents = byte_tokenizer(), Documents.of(TEXTS)
    before = tokens._key(tokenizer, documents, None)
    tokenizer(TEXTS, truncation=True, max_length=5, padding="max_length")
    assert tokens._key(tokenizer, documents, None) == before
    assert tokens._key(byte_tokenizer(), documents, None) == before


def test_a_cache_that_cannot_be_written_is_one_line(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(ParameterError, match="HF_DATASETS_CACHE must be a folder that can keep tokenised text"):
        tokenised(byte_tokenizer(), Documents.of(TEXTS))


@pytest.mark.parametrize("name", ["*-tokens.npy", "*-documents.npz"])
@pytest.mark.parametrize("left", [None, 0, 100])
def test_a_cache_that_is_cut_off_is_made_anew(name: str, left: int | None, cache: Path) -> None:
    """By a full disk or a cleaning hand: what is left of it is not read, and no reason to stop."""
    tokenizer, documents = byte_tokenizer(), Documents.of(TEXTS)
    tokenised(tokenizer, documents)
    (path,) = cache.glob(name)
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    for _ in range(2):
        assert documents_of(tokenised(tokenizer, documents)) == plain(tokenizer).ids(TEXTS)
