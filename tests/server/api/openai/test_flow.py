"""The text of an answer, told in pieces that no later token changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from server.api.openai.flow import Flow, Spelling
from tests.tiny import SPECIAL_TOKENS, byte_tokenizer, tiny_tokenizer, wordpiece_tokenizer
from token_diffusion.text import decode


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """As sentencepiece's: a word holds the space before it, and what has no piece is spelled in bytes, decoded run by run."""
    pieces = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *("▁the", "▁cat", "s", "é")]
    backend = Tokenizer(models.BPE({piece: id for id, piece in enumerate(pieces)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", mask_token="[MASK]")


def cleaning_tokenizer() -> BertTokenizer:
    """Takes spaces away before punctuation, once the whole text is there."""
    words = [*SPECIAL_TOKENS, "do", "it", "s", "t", "n", "ve", "re", "m", "##s", *"'.,?!ab"]
    vocab = {word: index for index, word in enumerate(words)}
    return BertTokenizer(vocab, clean_up_tokenization_spaces=True)


TOKENIZERS = {
    "words": tiny_tokenizer,
    "bytes": byte_tokenizer,
    "pieces": wordpiece_tokenizer,
    "fallback": byte_fallback_tokenizer,
    "cleaning": cleaning_tokenizer,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = TOKENIZERS[request.param]()
    return made


def told(flow: Flow, ids: Sequence[int], counts: Sequence[int]) -> list[str]:
    """The pieces that are told when so many tokens are final, and at last all of them."""
    return [*(flow.advance(ids[:count]) for count in sorted(counts)), flow.advance(ids, last=True)]


def test_the_pieces_are_the_text_however_the_tokens_come(tokenizer: PreTrainedTokenizerBase) -> None:
    draw = random.Random(1)
    for _ in range(150):
        before, ids = ([draw.randrange(5, len(tokenizer)) for _ in range(count)] for count in (3, 12))
        counts = [draw.randrange(12) for _ in range(5)]
        flow = Flow(Spelling(tokenizer, before))
        pieces = told(flow, ids, counts)
        assert "".join(pieces) == flow.text == Spelling(tokenizer, before).text(ids)
        assert (flow.finish_reason, flow.num_tokens) == ("length", 12)


def test_stop_strings_cut_the_same_text_however_it_comes(tokenizer: PreTrainedTokenizerBase) -> None:
    draw = random.Random(2)
    seen: set[str | None] = set()
    for _ in range(150):
        ids = [draw.randrange(5, len(tokenizer)) for _ in range(12)]
        text = Spelling(tokenizer).text(ids)
        starts = [draw.randrange(len(text)) for _ in range(2)]
        stop = [text[at : at + draw.randrange(1, 6)] for at in starts] + ["never", text[starts[0] :][:3] + "~"]
        flow = Flow(Spelling(tokenizer), stop)
        assert "".join(told(flow, ids, [draw.randrange(12) for _ in range(5)])) == flow.text
        assert flow.text == text[: min(text.find(each) for each in stop if each in text)]
        at_once = Flow(Spelling(tokenizer), stop)
        at_once.advance(ids, last=True)
        assert (at_once.text, at_once.num_tokens) == (flow.text, flow.num_tokens)
        seen.add(flow.finish_reason)
    assert seen == {"stop"}


def test_what_follows_the_seam_keeps_its_space_and_its_word() -> None:
    way: Any = wordpiece_tokenizer()

    def of(before: str, after: list[str]) -> str:
        return Spelling(way, way.convert_tokens_to_ids(before.split())).text(way.convert_tokens_to_ids(after))

    assert of("the cat", ["sat"]) == " sat"
    assert of("the cat", ["##s", "sat"]) == "s sat"
    assert of("", ["the", "cat"]) == "the cat"
    spaced = byte_tokenizer()
    before = spaced("the cat")["input_ids"]
    assert Spelling(spaced, before).text(spaced(" sat")["input_ids"]) == " sat"
    assert Spelling(spaced, before).text(spaced("sat")["input_ids"]) == "sat"


def test_half_a_character_waits_for_the_other_half() -> None:
    way = byte_tokenizer()
    ids = way("a猫b")["input_ids"]
    flow = Flow(Spelling(way))
    assert [flow.advance(ids[:count]) for count in range(1, 6)] == ["a", "", "", "猫", "b"]
    broken = Flow(Spelling(way))
    assert broken.advance(ids[:3]) == "a"
    assert broken.advance(ids[:3], last=True) == "\N{REPLACEMENT CHARACTER}"
    # With such a tokenizer a run of bytes is a character or none, as a whole.
    run: Any = byte_fallback_tokenizer()
    cat, s = run.convert_tokens_to_ids(["▁cat", "s"])
    ids = [cat, *(run.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "猫".encode()), s]
    flow = Flow(Spelling(run))
    assert [flow.advance(ids[:count]) for count in range(1, 6)] == ["cat", "", "", "", "猫s"]


def test_an_end_token_ends_the_text_and_counts() -> None:
    way = tiny_tokenizer()
    end = way.sep_token_id
    ids = [*way("w1 w2")["input_ids"], end, *way("w3 w4")["input_ids"]]
    for counts in ([], [1, 2], [4]):
        flow = Flow(Spelling(way), ends=[end])
        assert "".join(told(flow, ids, counts)) == "w1 w2"
        assert (flow.finish_reason, flow.num_tokens) == ("stop", 3)
    assert Flow(Spelling(way)).advance(ids, last=True) == "w1 w2 w3 w4"


def test_the_end_token_that_begins_a_text_ends_none() -> None:
    way = tiny_tokenizer()
    end = way.sep_token_id
    ids = [end, *way("w1 w2")["input_ids"], end, *way("w3 w4")["input_ids"]]
    for counts in ([], [1, 2], [1, 4]):
        flow = Flow(Spelling(way), ends=[end], begin=end)
        assert "".join(told(flow, ids, counts)) == "w1 w2"
        assert (flow.finish_reason, flow.num_tokens) == ("stop", 4)
    assert Flow(Spelling(way), ends=[end]).advance(ids, last=True) == ""


def test_a_stop_string_is_known_before_the_last_token() -> None:
    way = tiny_tokenizer()
    ids = way("w1 w2 w3 w4 w5")["input_ids"]
    flow = Flow(Spelling(way), ["w3", "w2 w3 w44"])
    pieces = [flow.advance(ids[:count]) for count in range(1, 6)]
    assert pieces == ["w1", " ", "", "", "w2 "], "until w5 comes, w2 may begin the longer string"
    assert (flow.finish_reason, flow.num_tokens) == ("stop", 3)
    assert decode(way, ids[:2]) == "w1 w2"
