"""Where the text of a sample ends, and canvases that are given as ids."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.tiny import byte_tokenizer, tiny_tokenizer, wordpiece_tokenizer
from token_diffusion.errors import ParameterError
from token_diffusion.facts import Facts, Frame
from token_diffusion.text import OPEN, Ending, decode, encode, ending
from token_diffusion.text import endings as module


def spaced_tokenizer() -> PreTrainedTokenizerFast:
    """Sentencepiece's kind: the first space of a text is taken away."""
    words = ["<unk>", "<mask>", "\u2581the", "cat", "s", "\u2581", "<0xE2>", "<0x80>", "<0xA6>", "\u2581ca", "\u4e2d"]
    tokenizer = Tokenizer(models.BPE({word: id for id, word in enumerate(words)}, [], unk_token="<unk>"))
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token="<mask>")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bytes": byte_tokenizer,
    "wordpiece": wordpiece_tokenizer,
    "words": tiny_tokenizer,
    "spaced": spaced_tokenizer,
}
LEARNT = Facts(Frame((2,), (3,)), frozenset({3}), known=True)


def ended(tokenizer: PreTrainedTokenizerBase, fixed: str, drawn: str, *stop: str, rest: str = "") -> Ending:
    """Of a sample whose text is `fixed`, then drawn, then what a template fixes at its end."""
    parts = [encode(tokenizer, seq_len=None, prompt=part) if part else [] for part in (fixed, drawn, rest)]
    canvas = [*parts[0], *[OPEN] * len(parts[1]), *parts[2]]
    return ending(tokenizer, [id for part in parts for id in part], canvas, stop=stop)


@pytest.mark.parametrize("stop", [["."], ["sat."], [" the"], ["no", "t s"], ["cat sat"], ["t", "cat sat"]])
def test_a_text_ends_before_the_first_stop_string_with_something_drawn_in_it(stop: list[str]) -> None:
    fixed, drawn = "the cat", " sat. the cat sat on the mat"
    whole = fixed + drawn
    touching = [whole.find(each, max(0, len(fixed) - len(each) + 1)) for each in stop]
    expected = whole[: min(index for index in touching if index >= 0)]
    assert ended(byte_tokenizer(), fixed, drawn, *stop) == Ending(expected, True)


def test_what_stands_in_the_prompt_does_not_count() -> None:
    tokenizer = byte_tokenizer()
    assert ended(tokenizer, "a\n\nb", "cd", "\n\n", "a") == Ending("a\n\nbcd", False)
    assert ended(tokenizer, "a\n", "\nb", "\n\n") == Ending("a", True)  # half of it was drawn
    assert ended(tokenizer, "a\n\n", "\nb", "\n\n") == Ending("a\n", True)
    assert ended(tokenizer, "abc", "", "b") == Ending("abc", False)
    assert ended(tokenizer, "", "abc", "b", "bc", "c") == Ending("a", True)
    assert ended(tokenizer, "", "abc", "d") == ended(tokenizer, "", "abc") == Ending("abc", False)


def test_fixed_text_of_a_template_does_not_count_either() -> None:
    tokenizer = byte_tokenizer()
    assert ended(tokenizer, "x. ", "y", ".", rest=". z.") == Ending("x. y. z.", False)
    assert ended(tokenizer, "x. ", "y.", ".", rest=" z.") == Ending("x. y", True)
    assert ended(tokenizer, "x", "y", "yz", rest="z") == Ending("x", True)


@pytest.mark.parametrize("text", ["a🙂b", "🙂", "中文。end"])
def test_half_a_character_that_was_drawn_is_drawn(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = encode(tokenizer, seq_len=None, prompt=text)
    stop = next(each for each in text if not each.isascii())
    first = len(text[: text.index(stop)].encode())  # a token a byte
    for num_fixed in range(first, first + len(stop.encode())):
        canvas = ids[:num_fixed] + [OPEN] * (len(ids) - num_fixed)
        assert ending(tokenizer, ids, canvas, stop=[stop]) == Ending(text[: text.index(stop)], True)
    canvas = ids[: first + len(stop.encode())] + [OPEN] * (len(ids) - first - len(stop.encode()))
    assert ending(tokenizer, ids, canvas, stop=[stop]) == Ending(text, False)


def test_a_word_that_goes_on_and_a_space_between_words() -> None:
    tokenizer = wordpiece_tokenizer()
    assert ended(tokenizer, "the un", "cats", "un") == Ending("the un cats", False)
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary[name] for name in ("the", "un", "##able", "cat")]
    assert ending(tokenizer, ids, [*ids[:2], OPEN, OPEN], stop=["unable"]) == Ending("the ", True)
    assert ending(tokenizer, ids, [*ids[:2], OPEN, OPEN], stop=["un"]) == Ending("the unable cat", False)
    assert ending(tokenizer, ids, [*ids[:3], OPEN], stop=[" "]) == Ending("the unable", True)


def exactly(tokenizer: PreTrainedTokenizerBase, tokens: list[int], is_drawn: list[bool]) -> list[tuple[int, int]]:
    """The stretches of characters of drawn runs, each edge by decoding all that is before it."""
    text, found, start = decode(tokenizer, tokens), [], 0
    while start < len(tokens):
        end = start
        while end < len(tokens) and is_drawn[end] == is_drawn[start]:
            end += 1
        before, until = decode(tokenizer, tokens[:start]).rstrip("\ufffd"), decode(tokenizer, tokens[:end])
        first = next(
            (index for index, pair in enumerate(zip(before, text, strict=False)) if len({*pair}) > 1), len(before)
        )
        if is_drawn[start] and first < len(until):
            found.append((first, len(until)))
        start = end
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_few_tokens_before_a_run_say_which_characters_are_its(name: str) -> None:
    tokenizer, draw = TOKENIZERS[name](), random.Random(0)
    ids = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    for _ in range(150):
        tokens = draw.choices(ids, k=draw.randrange(40))
        is_drawn = [draw.random() < 0.5 for _ in tokens]
        assert list(module._drawn(tokenizer, tokens, is_drawn)) == exactly(tokenizer, tokens, is_drawn)


def test_an_end_token_that_is_learnt_ends_the_text() -> None:
    tokenizer = byte_tokenizer()  # 3 is [SEP]
    ids = [2, *encode(tokenizer, seq_len=None, prompt="abcd"), 3]
    tokens, canvas = [*ids[:3], 3, *ids[4:]], [*ids[:2], OPEN, OPEN, OPEN, 3]
    assert ending(tokenizer, tokens, canvas, facts=LEARNT) == Ending("ab", True)
    assert ending(tokenizer, tokens, canvas, facts=LEARNT, stop=["b"]) == Ending("a", True)
    assert ending(tokenizer, tokens, canvas, facts=LEARNT, stop=["d"]) == Ending("ab", True)
    assert ending(tokenizer, ids, canvas, facts=LEARNT) == Ending("abcd", False)  # the frame's own is none
    assert ending(tokenizer, tokens, canvas) == Ending("abd", False)  # nothing is known of it


def test_an_end_token_that_was_given_or_before_fixed_text_ends_nothing() -> None:
    tokenizer = byte_tokenizer()
    ids = encode(tokenizer, seq_len=None, prompt="abcd")
    tokens = [2, ids[0], 3, ids[2], ids[3], 3]
    assert ending(tokenizer, tokens, [2, ids[0], 3, OPEN, OPEN, 3], facts=LEARNT) == Ending("acd", False)
    assert ending(tokenizer, tokens, [2, ids[0], OPEN, OPEN, ids[3], 3], facts=LEARNT) == Ending("acd", False)


def test_the_end_token_that_begins_a_text_ends_none() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|end|>", "eos_token": "<|end|>"})
    end, ids = tokenizer.eos_token_id, encode(tokenizer, seq_len=None, prompt="ab")
    facts = Facts(learnt=frozenset({end}), known=True)
    assert ending(tokenizer, [end, *ids, end, *ids], [OPEN] * 6, facts=facts) == Ending("ab", True)
    assert ending(tokenizer, [end, end, *ids], [OPEN] * 4, facts=facts) == Ending("", True)
    assert ending(tokenizer, [*ids, end, *ids], [*ids, OPEN, OPEN, OPEN], facts=facts) == Ending("ab", True)
    assert ending(tokenizer, [end, *ids], [OPEN] * 3, facts=facts) == Ending("ab", False)


@pytest.mark.parametrize("frame", [Frame(), Frame((2,), (3,))])
def test_ids_stand_for_themselves(frame: Frame) -> None:
    tokenizer = byte_tokenizer()
    ids = [3, 7, *encode(tokenizer, seq_len=None, prompt="the cat")]
    length = len(ids) + len(frame)
    prompt = encode(tokenizer, seq_len=length + 1, prompt_ids=ids, frame=frame)
    assert prompt == frame.around([*ids, OPEN])
    holes = encode(tokenizer, seq_len=None, template_ids=[*ids, 4, 9], frame=frame)
    assert holes == frame.around([*ids, OPEN, 9])
    assert encode(tokenizer, seq_len=length + 3, template_ids=[4, *ids], frame=frame) == frame.around(
        [OPEN, *ids, OPEN, OPEN]
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt_ids": [5, 290]}, r"prompt_ids must hold token ids in \[0, 279\), got 290"),
        ({"template_ids": [-1]}, r"template_ids must hold token ids in \[0, 279\), got -1"),
        ({"prompt_ids": [True]}, "prompt_ids must hold token ids"),
        ({"prompt_ids": [5, 4]}, "prompt_ids must hold no mask token, as template_ids may, got 4"),
        ({"prompt_ids": [5] * 9}, "prompt_ids must fit into seq_len = 8 tokens, got '9 tokens'"),
        ({"prompt": "a", "prompt_ids": [5]}, r"prompt_ids must be absent where prompt is given, got \[5\]"),
        ({"prompt_ids": [], "template_ids": []}, "template_ids must be absent where prompt_ids is given"),
        (
            {"template_ids": [], "seq_len": None},
            "template_ids must hold at least one token where seq_len is not given",
        ),
    ],
)
def test_ids_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}"):
        encode(byte_tokenizer(), **{"seq_len": 8} | given)


def test_ids_beyond_the_tokenizer_are_the_models_to_know() -> None:
    assert encode(byte_tokenizer(), seq_len=None, prompt_ids=[299], vocab_size=300) == [299]
