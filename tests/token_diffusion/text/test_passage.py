"""Texts to be scored: what of their tokens is given, and where prefix and text meet."""

from __future__ import annotations

import pytest

from tests.tiny import byte_tokenizer, tiny_tokenizer, wordpiece_tokenizer
from token_diffusion import ParameterError
from token_diffusion.facts import Frame
from token_diffusion.text import encode_passage

FRAME = Frame((2,), (3,))


def test_frame_prefix_and_unknown_words_are_given() -> None:
    passage = encode_passage(tiny_tokenizer(), "w1 nobody w2", prefix="w7", frame=FRAME)
    assert passage.tokens == [2, 12, 6, 1, 7, 3]
    assert passage.given == (0, 1, 3, 5) and (passage.start, passage.end) == (2, 5)
    assert passage.text_tokens == [6, 1, 7] and passage.num_unknown == 1


def test_a_text_has_the_tokens_that_it_has_in_its_place() -> None:
    tokenizer = byte_tokenizer()
    together = encode_passage(tokenizer, "the cat sat").tokens
    apart = encode_passage(tokenizer, " cat sat", prefix="the")
    assert apart.tokens == together and apart.start == 1
    assert tokenizer.decode(encode_passage(tokenizer, "re", prefix="the").tokens) == "there"
    words = wordpiece_tokenizer()
    assert words.convert_ids_to_tokens(encode_passage(words, "cat", prefix="the").tokens) == ["the", "cat"]


def test_control_tokens_that_are_typed_are_text() -> None:
    tokenizer = byte_tokenizer()
    passage = encode_passage(tokenizer, "[MASK][SEP]", prefix="[CLS]")
    assert tokenizer.decode(passage.tokens) == "[CLS][MASK][SEP]" and passage.num_unknown == 0
    assert not set(passage.tokens) & {0, 2, 3, 4}


@pytest.mark.parametrize(
    ("text", "prefix", "message"),
    [
        ("", None, "line 3 must hold at least one token, got ''"),
        (" \n", "w1", "line 3 must hold at least one token"),
        ("nobody at all", None, "line 3 must hold at least one token that the tokenizer knows"),
        ("w1 " * 9, None, "line 3 must fit into 10 tokens, 2 of them the frame's, got '9 tokens'"),
        (
            "w1 " * 6,
            "w2 " * 3,
            "line 3 must fit into 10 tokens, 2 of them the frame's, 3 the prefix's, got '6 tokens'",
        ),
        ("\ud800", None, "line 3 must be valid Unicode, without lone surrogates"),
        ("w1", "\ud800", "prefix must be valid Unicode, without lone surrogates"),
        ("x" * 100_000, None, "line 3 must hold at least one token that the tokenizer knows"),
    ],
)
def test_texts_that_cannot_be_scored_are_named(text: str, prefix: str | None, message: str) -> None:
    with pytest.raises(ParameterError) as error:
        encode_passage(tiny_tokenizer(), text, prefix=prefix, max_tokens=10, frame=FRAME, name="line 3")
    assert str(error.value).startswith(message)
