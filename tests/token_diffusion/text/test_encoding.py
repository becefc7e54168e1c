"""Prompts and templates become ids with holes, and ids become text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from tests.tiny import byte_tokenizer, tiny_tokenizer, wordpiece_tokenizer
from token_diffusion.errors import ParameterError
from token_diffusion.text import MASK_TEXT, OPEN, decode, encode, ending

TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bytes": byte_tokenizer,
    "bytes, <mask>": lambda: byte_tokenizer("<mask>"),
    "bytes, <mask> with its space": lambda: byte_tokenizer("<mask>", mask_takes_space=True),
    "wordpiece": wordpiece_tokenizer,
}
TEMPLATES = [
    "the [MASK] sat on the [MASK].",
    "[MASK] [MASK] the cat",
    "[MASK][MASK]the[MASK]s",
    "the cat\nsat  on [MASK]\n",
    "  the cat",
    "un[MASK]",
    "[MASK]",
]


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerBase:
    return byte_tokenizer()


def plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_nothing_given_is_all_open(tokenizer: PreTrainedTokenizerBase) -> None:
    assert encode(tokenizer, seq_len=5) == [OPEN] * 5
    assert encode(tokenizer, seq_len=5, prompt="") == [OPEN] * 5
    assert encode(tokenizer, seq_len=5, template="") == [OPEN] * 5


def test_a_prompt_is_a_fixed_prefix(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = plain(tokenizer, "the cat sat")
    assert encode(tokenizer, seq_len=9, prompt="the cat sat") == ids + [OPEN] * (9 - len(ids))
    assert encode(tokenizer, seq_len=len(ids), prompt="the cat sat") == ids
    assert encode(tokenizer, seq_len=None, prompt="the cat sat") == ids


@pytest.mark.parametrize("special", ["[MASK]", "<mask>", "[CLS]", "[PAD]", "[SEP]"])
def test_special_tokens_in_a_prompt_are_plain_text(tokenizer: PreTrainedTokenizerBase, special: str) -> None:
    ids = encode(tokenizer, seq_len=None, prompt=f"the {special} cat")
    assert OPEN not in ids
    reserved = {tokenizer.mask_token_id, tokenizer.cls_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id}
    assert not reserved & set(ids)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_is_what_the_tokenizer_makes_of_its_own_mask(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    """So what a mask does to the space beside it (RoBERTa's and ModernBERT's take the one before) is done here too."""
    native = plain(tokenizer, template.replace(MASK_TEXT, tokenizer.mask_token))
    expected = [OPEN if token == tokenizer.mask_token_id else token for token in native]
    ids = encode(tokenizer, seq_len=None, template=template)
    assert ids == expected
    assert ids.count(OPEN) == template.count(MASK_TEXT)
    longer = encode(tokenizer, seq_len=30, template=template)
    assert longer == ids + [OPEN] * (30 - len(ids))


def test_a_line_break_before_a_hole_stays() -> None:
    """It is a token of its own, which a mask that takes a space must leave."""
    for name in ("bytes", "bytes, <mask> with its space"):
        tokenizer = TOKENIZERS[name]()
        assert encode(tokenizer, seq_len=None, template="the\n[MASK]") == [*plain(tokenizer, "the\n"), OPEN]


def test_only_the_hole_is_special_in_a_template() -> None:
    """Neither the tokenizer's own mask nor its other special tokens, typed as text."""
    tokenizer = byte_tokenizer("<mask>")
    ids = encode(tokenizer, seq_len=None, template="<mask>[MASK][CLS]")
    assert ids.count(OPEN) == 1 and tokenizer.mask_token_id not in ids and tokenizer.cls_token_id not in ids
    assert decode(tokenizer, [token for token in ids if token != OPEN]) == "<mask>[CLS]"


def test_a_filled_template_reads_as_its_text(byte_level: PreTrainedTokenizerBase) -> None:
    ids = encode(byte_level, seq_len=None, template="the[MASK] sat on[MASK] mat.")
    (cat,), (the,) = plain(byte_level, " cat"), plain(byte_level, " the")
    fill = iter([cat, the])
    assert decode(byte_level, [next(fill) if token == OPEN else token for token in ids]) == "the cat sat on the mat."
    words = wordpiece_tokenizer()
    ids = encode(words, seq_len=None, template="The [MASK] sat on the [MASK].")
    fill = iter(plain(words, "cat mat"))
    text = decode(words, [next(fill) if token == OPEN else token for token in ids])
    assert text.replace(" .", ".") == "the cat sat on the mat."


def test_a_start_token_comes_first_and_is_fixed(tokenizer: PreTrainedTokenizerBase) -> None:
    cls = tokenizer.cls_token_id
    assert encode(tokenizer, seq_len=3, inject_start_token=True) == [cls, OPEN, OPEN]
    ids = plain(tokenizer, "the cat")
    assert encode(tokenizer, seq_len=1 + len(ids), prompt="the cat", inject_start_token=True) == [cls, *ids]
    assert encode(tokenizer, seq_len=None, template="[MASK]", inject_start_token=True) == [cls, OPEN]


def test_bos_stands_in_for_cls() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.cls_token = None
    tokenizer.bos_token = "[SEP]"
    assert encode(tokenizer, seq_len=2, inject_start_token=True) == [tokenizer.sep_token_id, OPEN]
    tokenizer.bos_token = None
    with pytest.raises(ParameterError, match="inject_start_token must be off for a tokenizer without CLS and BOS"):
        encode(tokenizer, seq_len=2, inject_start_token=True)


def test_text_longer_than_seq_len_is_refused_not_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    count = len(plain(tokenizer, "the cat sat"))
    message = f"must fit into seq_len = {count - 1} tokens, got '{count} tokens'"
    with pytest.raises(ParameterError, match=f"prompt {message}"):
        encode(tokenizer, seq_len=count - 1, prompt="the cat sat")
    with pytest.raises(ParameterError, match="template must fit into seq_len = 2 tokens, got '3 holes'"):
        encode(tokenizer, seq_len=2, template="[MASK][MASK][MASK]")
    with pytest.raises(ParameterError, match="template must fit into 2 tokens, got '3 holes'"):
        encode(tokenizer, seq_len=None, max_tokens=2, template="[MASK][MASK][MASK]")
    with pytest.raises(ParameterError, match="template must fit into seq_len = 1 tokens, got '2 tokens'"):
        encode(tokenizer, seq_len=1, template="the[MASK]")
    with pytest.raises(ParameterError, match="prompt must fit into seq_len = 3 tokens, got '4 tokens'"):
        encode(tokenizer, seq_len=3, prompt="the cat sat", inject_start_token=True)


def test_prompt_and_template_exclude_each_other(byte_level: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ParameterError, match="template must be absent where prompt is given, got '\\[MASK\\]'"):
        encode(byte_level, seq_len=8, prompt="the", template="[MASK]")


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [({}, "prompt", None), ({"prompt": ""}, "prompt", ""), ({"template": ""}, "template", "")],
)
def test_a_length_must_come_from_somewhere(
    byte_level: PreTrainedTokenizerBase, given: dict[str, Any], name: str, value: str | None
) -> None:
    rule = f"{name} must hold at least one token where seq_len is not given, got {value!r}"
    with pytest.raises(ParameterError, match=rule):
        encode(byte_level, seq_len=None, **given)


@pytest.mark.parametrize(
    "text",
    [
        "the cat sat.",
        "  the  cat ",
        "naïve 日本語 🙂\n\ttab",
        "don't , stop .",
        "\x00\x7f",
        "e\u0301",
        " ",
        "\r\n",
        "[CLS] <mask>[SEP]",
    ],
)
def test_bytes_come_back_as_they_were(byte_level: PreTrainedTokenizerBase, text: str) -> None:
    ids = encode(byte_level, seq_len=None, prompt=text)
    assert decode(byte_level, ids) == text
    holes = encode(byte_level, seq_len=None, template=f"{text}[MASK]{text}")
    assert decode(byte_level, [token for token in holes if token != OPEN]) == text * 2


def test_half_a_character_is_still_text(byte_level: PreTrainedTokenizerBase) -> None:
    ids = encode(byte_level, seq_len=None, prompt="🙂")
    assert len(ids) == 4
    assert decode(byte_level, ids[:2]) == "�"


def test_decoding_leaves_special_tokens_out(tokenizer: PreTrainedTokenizerBase) -> None:
    special = [tokenizer.cls_token_id, tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id]
    assert decode(tokenizer, special + plain(tokenizer, "the cat") + special) == "the cat"
    assert decode(tokenizer, []) == decode(tokenizer, special) == ""


def test_a_control_token_without_a_role_is_left_out_as_well() -> None:
    """What ends a turn of LLaDA's is one: nothing in its tokenizer but a flag says that it is special."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|eot_id|>", special=True)], special_tokens=True)
    turn = tokenizer.get_vocab()["<|eot_id|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": []})
    assert turn not in tokenizer.all_special_ids
    tokens = [*plain(tokenizer, "the cat"), turn]
    assert decode(tokenizer, tokens) == ending(tokenizer, tokens, [-1] * len(tokens)).text == "the cat"


def test_an_unfinished_state_shows_its_masks_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = [tokenizer.cls_token_id, *plain(tokenizer, "the"), tokenizer.mask_token_id, *plain(tokenizer, " cat")]
    text = decode(tokenizer, [*ids, tokenizer.pad_token_id, tokenizer.sep_token_id], keep_masks=True)
    assert text.split() in (["the", tokenizer.mask_token, "cat"], [f"the{tokenizer.mask_token}", "cat"])
    assert decode(tokenizer, ids) == "the cat"


def test_wordpieces_join() -> None:
    tokenizer = wordpiece_tokenizer()
    assert decode(tokenizer, plain(tokenizer, "Unable cats")) == "unable cats"


@pytest.mark.parametrize("name", ["prompt", "template"])
def test_text_that_is_no_unicode_is_refused_by_its_name(byte_level: PreTrainedTokenizerBase, name: str) -> None:
    with pytest.raises(ParameterError, match=f"^{name} must be valid Unicode, without lone surrogates, got"):
        encode(byte_level, seq_len=8, **{name: "a\udcff"})  # type: ignore[arg-type]
