"""How tokens are shown one by one, for each kind of tokenizer."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from server.api.pieces import pieces, special_ids
from tests.tiny import byte_tokenizer, tiny_tokenizer, wordpiece_tokenizer
from token_diffusion.text import decode, encode


def spaced_tokenizer(decoder: decoders.Decoder) -> PreTrainedTokenizerFast:
    """Sentencepiece's kind, with bytes for what has no piece."""
    words = ["<unk>", "<mask>", "\u2581the", "cat", "s", "\u2581", "<0xE2>", "<0x0A>", "\u2581ca", "\u4e2d"]
    tokenizer = Tokenizer(models.BPE({word: id for id, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token="<mask>")


def by_name(tokenizer: PreTrainedTokenizerBase, *names: str) -> list[str]:
    vocabulary = tokenizer.get_vocab()
    return pieces(tokenizer, [vocabulary[name] for name in names])


def test_a_byte_level_word_keeps_its_space_and_half_a_character_shows_its_bytes() -> None:
    tokenizer = byte_tokenizer()
    assert by_name(tokenizer, "the", "Ġthe", "Ġ", "Ċ", "a") == ["the", " the", " ", "\n", "a"]
    assert by_name(tokenizer, "â", "Ģ", "[MASK]", "[PAD]") == ["<0xE2>", "<0x80>", "[MASK]", "[PAD]"]


@pytest.mark.parametrize(
    "text", ["the cat sat on the mat", "Zażółć 中文 \u202eabc\u202c", "a\n\tb\x00c 👩‍👩‍👧", "</script>"]
)
def test_the_pieces_of_a_text_are_its_text(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = encode(tokenizer, seq_len=None, prompt=text)
    shown = "".join(pieces(tokenizer, ids))
    bytes_shown = shown.encode() if "<0x" not in shown else None
    assert bytes_shown in (None, text.encode()) and decode(tokenizer, ids) == text
    assert pieces(tokenizer, range(len(tokenizer))) == [pieces(tokenizer, [id])[0] for id in range(len(tokenizer))]


def test_words_and_continuations_are_spelled_as_in_the_vocabulary() -> None:
    assert by_name(wordpiece_tokenizer(), "the", "##able", ",", "[CLS]") == ["the", "##able", ",", "[CLS]"]
    assert by_name(tiny_tokenizer(), "w1", "[MASK]", "[UNK]") == ["w1", "[MASK]", "[UNK]"]


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]),
        decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    ],
)
def test_sentencepieces_space_is_a_space_and_bytes_that_are_characters_are_those(decoder: decoders.Decoder) -> None:
    tokenizer = spaced_tokenizer(decoder)
    assert by_name(tokenizer, "\u2581the", "cat", "\u2581", "\u4e2d") == [" the", "cat", " ", "\u4e2d"]
    assert by_name(tokenizer, "<0xE2>", "<0x0A>", "<mask>") == ["<0xE2>", "\n", "<mask>"]


def test_metaspace_too() -> None:
    assert by_name(spaced_tokenizer(decoders.Metaspace()), "\u2581the", "s", "<mask>") == [" the", "s", "<mask>"]


def test_an_id_without_a_token_is_shown_as_nothing_and_special_ones_are_known() -> None:
    tokenizer = tiny_tokenizer()
    assert pieces(tokenizer, [5, 50, 10**6]) == ["w0", "", ""]
    assert special_ids(tokenizer, 50) == [0, 1, 2, 3, 4] and special_ids(tokenizer, 2) == [0, 1]
