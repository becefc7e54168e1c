"""Documents to sequences: packing loses nothing, frames are the tokenizer's, and what is lost or odd is said."""

from __future__ import annotations

import logging
from hashlib import blake2b

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.tiny import tiny_tokenizer, wordpiece_tokenizer
from token_diffusion.errors import ParameterError
from trainer.data.reading.documents import Documents
from trainer.data.sequences import Sequences, pack, separator, tokenize
from trainer.data.tokenizer import build_tokenizer

TEXT = "To be, or not to be,\n\n  that is the question:\nWhether 'tis nobler in the mind\n" * 4


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer([TEXT], vocab_size=280)


def made(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], *, packing: bool = False, max_length: int = 16
) -> Sequences:
    return tokenize(tokenizer, Documents.of(texts), flag="train_file", packing=packing, max_length=max_length)


def test_pack_is_the_stream_cut_into_pieces() -> None:
    parts = [np.array(part) for part in ([5, 6, 7], [3], [8], [3, 9, 10, 11, 12, 13])]
    assert [piece.tolist() for piece in pack(parts, 3)] == [[5, 6, 7], [3, 8, 3], [9, 10, 11], [12, 13]]
    assert list(pack([], 3)) == []
    rows = [np.arange(8).reshape(4, 2), np.arange(2).reshape(1, 2)]
    assert [piece.tolist() for piece in pack(rows, 3)] == [[[0, 1], [2, 3], [4, 5]], [[6, 7], [0, 1]]]


def test_packed_documents_decode_to_their_text(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [TEXT, "Ay, there's\nthe rub.\n"]
    sequences = made(tokenizer, texts, packing=True)
    assert {len(ids) for ids in sequences.ids[:-1]} == {16} and 0 < len(sequences.ids[-1]) <= 16
    stream = np.concatenate(sequences.ids)
    (gap,) = np.flatnonzero(stream == separator(tokenizer))
    assert [tokenizer.decode(stream[:gap]), tokenizer.decode(stream[gap + 1 :])] == texts
    assert sequences.num_dropped_tokens == 0


def test_unpacked_documents_are_framed_and_truncated(tokenizer: PreTrainedTokenizerBase) -> None:
    """As the tokenizer itself does it."""
    texts = ["ab", TEXT, "Ay"]
    expected = tokenizer(texts, truncation=True, max_length=8)["input_ids"]
    sequences = made(tokenizer, texts, max_length=8)
    assert [ids.tolist() for ids in sequences.ids] == expected
    assert tokenizer.decode(sequences.ids[0]) == "[CLS]ab[SEP]"
    assert sequences.num_dropped_tokens == len(tokenizer(TEXT)["input_ids"]) - 8


def test_a_tokenizer_that_truncates_on_the_left_keeps_the_end() -> None:
    tokenizer = build_tokenizer([TEXT], vocab_size=280)
    tokenizer.truncation_side = "left"
    expected = tokenizer([TEXT, "ab"], truncation=True, max_length=8)["input_ids"]
    assert [ids.tolist() for ids in made(tokenizer, [TEXT, "ab"], max_length=8).ids] == expected


def test_dropped_tokens_are_said(tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dropped = made(tokenizer, ["ab", TEXT, TEXT], max_length=8).num_dropped_tokens
        assert made(tokenizer, ["ab"], max_length=8).num_dropped_tokens == 0
    assert dropped > 100 and [record.getMessage() for record in caplog.records] == [
        f"train_file: {dropped} tokens of 2 documents are beyond --max_length 8 and dropped; --packing would keep what is lost"
    ]


def test_text_without_neighbours_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made(tiny_tokenizer(), ["w1 w2", "w3"])
        assert not caplog.records
        made(tiny_tokenizer(), ["w1", "w3 never", "never"])
    assert caplog.messages == ["train_file: no sequence has more than one token that counts"]


def test_typed_control_tokens_are_text(tokenizer: PreTrainedTokenizerBase) -> None:
    (ids,) = made(tokenizer, ["[MASK]</s>[SEP]"], max_length=64).ids
    assert tokenizer.mask_token_id not in ids and tokenizer.decode(ids[1:-1]) == "[MASK]</s>[SEP]"
    assert np.isin(ids, tokenizer.all_special_ids).nonzero()[0].tolist() == [0, len(ids) - 1]


NAMES = {"pad_token": "<pad>", "eos_token": "</s>", "mask_token": "<mask>"}


def spaced(model: models.Model, **names: str) -> PreTrainedTokenizerBase:
    """A tokenizer of what stands between spaces."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES, **names)


def test_control_tokens_that_cannot_be_written_are_said(caplog: pytest.LogCaptureFixture) -> None:
    texts = ["the cat </s>", "the cat", "<mask> the <mask>"]
    with caplog.at_level(logging.WARNING):
        words = {word: id for id, word in enumerate([*NAMES.values(), "the", "cat", "<unk>"])}
        tokenizer = spaced(models.WordLevel(words, unk_token="<unk>"), unk_token="<unk>")
        rows = [tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in made(tokenizer, texts).ids]
    assert rows == [["the", "cat", "<unk>"], ["the", "cat"], ["<unk>", "the", "<unk>"]]
    assert caplog.messages == [
        "train_file: 2 documents spell control tokens that the tokenizer cannot write as text: they are unknown tokens there"
    ]


def test_control_tokens_that_would_vanish_are_refused() -> None:
    """No letter of theirs has a token, and there is none for unknown text."""
    letters = {piece: id for id, piece in enumerate([*NAMES.values(), *"acht"])}
    tokenizer = spaced(models.BPE(vocab=letters, merges=[], ignore_merges=True))
    assert len(made(tokenizer, ["that cat"]).ids) == 1
    with pytest.raises(ParameterError, match=r"train_file must spell no control token .*, got '2 documents spell"):
        made(tokenizer, ["that cat </s>", "</s>"])


def test_text_without_a_token_that_counts_is_refused() -> None:
    for texts in (["never", "ever"], [" ", ""]):
        with pytest.raises(ParameterError, match="train_file must hold text that has tokens besides special ones"):
            made(tiny_tokenizer(), texts)


@pytest.mark.parametrize("max_length", [2, 1])
def test_a_frame_that_leaves_no_room_is_max_lengths_mistake(max_length: int) -> None:
    tokenizer = build_tokenizer([TEXT], vocab_size=280)
    with pytest.raises(
        ParameterError, match=f"max_length must be more than 2, the control tokens .*, got {max_length}"
    ):
        made(tokenizer, ["ab"], max_length=max_length)
    assert len(made(tokenizer, ["ab"], max_length=3).ids[0]) == 3
    assert made(tokenizer, ["abcd"], packing=True, max_length=2).ids


def test_packing_needs_a_separator() -> None:
    tokenizer = wordpiece_tokenizer()
    assert separator(tokenizer) == tokenizer.sep_token_id
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))
    with pytest.raises(ParameterError, match="packing must have a tokenizer with an EOS or SEP token"):
        made(bare, ["a"], packing=True)


def test_the_fingerprint_is_of_tokens_and_sequences(tokenizer: PreTrainedTokenizerBase) -> None:
    """The same as it ever was, so that old runs go on; another for other tokens, or the same in other sequences."""
    for packing in (False, True):
        sequences = made(tokenizer, ["ab", TEXT, "Ay"], packing=packing)
        ends = np.cumsum([len(ids) for ids in sequences.ids], dtype=np.int64)
        digest = blake2b(np.concatenate(sequences.ids).astype(np.int32).tobytes(), digest_size=16)
        digest.update(ends.tobytes())
        assert sequences.fingerprint == digest.hexdigest()
    packed = [made(tokenizer, [TEXT], packing=True, max_length=length).fingerprint for length in (8, 16)]
    others = [made(tokenizer, texts).fingerprint for texts in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"])]
    assert len({*packed, *others}) == 6
