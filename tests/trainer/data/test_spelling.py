"""How many characters and bytes tokens stand for: of the source text, whatever the tokenizer makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from tests.tiny import byte_tokenizer, tiny_tokenizer, wordpiece_tokenizer
from trainer.data import cutting
from trainer.data.reading.documents import Documents
from trainer.data.sequences import facts_of, tokenize, with_ends
from trainer.data.spelling import Spelling, spell
from trainer.data.tokenizer import build_tokenizer


def spelling(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], packing: bool = False, max_length: int = 64
) -> Spelling:
    documents = Documents.of(texts)
    ids = tokenize(tokenizer, documents, flag="validation_file", packing=packing, max_length=max_length).ids
    found = spell(tokenizer, documents, ids, packing=packing, max_length=max_length)
    assert found is not None and len(found.chars) == len(found.utf8_bytes) == len(ids)
    return found


@pytest.mark.parametrize("max_length", [2, 5, 64])
def test_packed_text_is_spelled_whole_however_it_is_cut(max_length: int) -> None:
    """No character is lost or counted twice at the cuts, not even one whose bytes lie in two sequences."""
    documents = ["the cat sat — naïve 猫 \U0001f408\n\n", " on the mat.  "]
    found = spelling(byte_tokenizer(), documents, packing=True, max_length=max_length)
    assert found.chars.sum() == sum(map(len, documents))
    assert found.utf8_bytes.sum() == sum(len(text.encode()) for text in documents)
    assert found.exact and found.num_given_chars == 0


def test_a_lower_casing_tokenizer_counts_what_was_written() -> None:
    """Word pieces drop white space and capitals: the characters are the source's, and the text is not kept."""
    found = spelling(wordpiece_tokenizer(), ["The  CAT\tsat ", "the cat"], packing=True)
    assert found.chars.tolist() == [len("The  CAT\tsat ") + len("the cat")] and not found.exact
    lowered = spelling(build_tokenizer(["the cat"], vocab_size=270, lowercase=True), ["THE CAT"])
    assert lowered.chars.tolist() == [7] and not lowered.exact
    assert spelling(build_tokenizer(["the cat"], vocab_size=270), ["THE CAT"]).exact


def test_what_truncation_drops_is_not_counted() -> None:
    tokenizer = build_tokenizer(["x"], vocab_size=261)  # bytes alone, and [CLS] … [SEP]
    found = spelling(tokenizer, ["abcdefgh", "ab"], max_length=6)
    assert found.chars.tolist() == [4, 2] and found.utf8_bytes.tolist() == [4, 2]
    for texts in (["abcdefgh", "ab"], ["ab", "abcdefgh"]):
        assert spelling(tokenizer, texts, max_length=6).exact is True, "JSON has no other"


def test_end_tokens_that_fill_up_stand_for_no_text() -> None:
    tokenizer = build_tokenizer(["x"], vocab_size=261)
    documents, facts = Documents.of(["abcdefgh", "ab"]), with_ends(facts_of(tokenizer, packing=False), tokenizer)
    how: dict[str, Any] = {
        "packing": False,
        "max_length": 6,
        "frame": facts.frame,
        "learnt": facts.learnt,
        "fill": facts.fill,
    }
    ids = tokenize(tokenizer, documents, flag="validation_file", **how).ids
    a, b = map(tokenizer.convert_tokens_to_ids, "ab")
    assert ids[1].tolist() == [2, a, b, 3, 3, 3] and 3 not in ids[0], "cut off, it has no end"
    found = spell(tokenizer, documents, ids, **how)
    assert found is not None and found.chars.tolist() == [5, 2] and found.exact


def test_unknown_words_are_given_and_not_counted() -> None:
    """[UNK] is never noised: its characters cost nothing, and may not make the others look cheaper."""
    found = spelling(tiny_tokenizer(), ["w1 never w2", "w3"])
    assert found.chars.tolist() == [len("w1") + len(" w2"), 2]
    assert found.utf8_bytes.tolist() == found.chars.tolist() and found.num_given_chars == len(" never")


def test_sequences_without_a_counted_token_are_left_out_as_in_the_data() -> None:
    found = spelling(tiny_tokenizer(), ["never", "w1"])
    assert found.chars.tolist() == [2] and found.num_given_chars == 5


def test_other_documents_are_noticed() -> None:
    ids = [np.array([5, 6], dtype=np.int32)]
    with pytest.raises(AssertionError, match="not the sequences of these documents"):
        spell(tiny_tokenizer(), Documents.of(["w1 w2"]), ids, packing=False, max_length=8)
    with pytest.raises(AssertionError, match="not the sequences of these documents"):
        spell(tiny_tokenizer(), Documents.of(["w0 w1"]), [*ids, *ids], packing=False, max_length=8)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("make", [byte_tokenizer, wordpiece_tokenizer])
def test_pieces_of_a_document_are_spelled_as_the_whole(
    make: Callable[[], PreTrainedTokenizerBase], packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the cat sat — naïve 猫 on the mat \n\n" * 20, " on the mat.  ", "the cat " * 50]
    whole = spelling(make(), texts, packing, max_length=5000)
    monkeypatch.setattr(cutting, "PIECE_CHARS", 50)
    monkeypatch.setattr(cutting, "CONTEXT", 25)
    cut = spelling(make(), texts, packing, max_length=5000)
    assert (cut.chars.tolist(), cut.utf8_bytes.tolist()) == (whole.chars.tolist(), whole.utf8_bytes.tolist())
    assert (cut.num_given_chars, cut.exact) == (whole.num_given_chars, whole.exact)
    assert whole.exact == (make is byte_tokenizer)
