"""Where the text of a sample ends: at an end token, at a stop string, or with its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from transformers import PreTrainedTokenizerBase

from ..errors import ParameterError
from ..facts import UNKNOWN, Facts
from .encoding import common, decode
from .plain import hidden_ids


@dataclass(frozen=True)
class Ending:
    """The text of a sample to its end. stopped: it has one, an end token or a stop string, before its tokens do."""

    text: str
    stopped: bool

    @property
    def reason(self) -> Literal["stop", "length"]:
        """Why it ends there, in OpenAI's words."""
        return "stop" if self.stopped else "length"


def ending(
    tokenizer: PreTrainedTokenizerBase,
    tokens: Sequence[int],
    canvas: Sequence[int],
    *,
    stop: Sequence[str] = (),
    facts: Facts = UNKNOWN,
    start: int = 0,
) -> Ending:
    """Where a sample ends: nothing behind its end is part of its text.

    That is before the first end token that the model has learnt and was drawn, unless fixed text comes after it, or before the
    first stop string that has a drawn token in it: one that stands in a prompt, or in fixed text of a template, does not count.
    GPT-2's end token begins texts, too: a sample's first token has ended none.

    Args:
        tokens: [seq_len], the sample. canvas: [seq_len], negative where they were drawn, as `encode` made it.
        start: of the token with which its text begins, as in `decode`.
    """
    text_ends = len(tokens) - len(facts.frame.suffix)
    after = next((index + 1 for index in reversed(range(text_ends)) if canvas[index] >= 0), 0)
    after += after == 0 and list(tokens[:1]) == [tokenizer.bos_token_id]
    ends = facts.ends(tokenizer)
    end = next((index for index in range(after, text_ends) if tokens[index] in ends), None)
    hidden = hidden_ids(tokenizer)
    seen = [index for index in range(len(tokens) if end is None else end) if tokens[index] not in hidden]
    shown, is_drawn = [tokens[index] for index in seen], [canvas[index] < 0 for index in seen]
    text = str(tokenizer.decode(shown))
    begin = common(decode(tokenizer, tokens[:start]), text) if start else 0
    if any(each in text for each in stop):
        for first, stop_at in _drawn(tokenizer, shown, is_drawn):
            found = [text.find(each, max(0, first - len(each) + 1)) for each in stop]
            if at := [index for index in found if 0 <= index < stop_at]:
                return Ending(text[begin : min(at)], True)
    return Ending(text[begin:], end is not None)


def check_stops(stop: str | Sequence[str]) -> list[str]:
    """Stop strings as a list. Raises `ParameterError` for one that is empty, as every text would end with it at once."""
    strings = [stop] if isinstance(stop, str) else list(stop)
    if not all(isinstance(each, str) and each for each in strings):
        raise ParameterError("stop", "hold no empty string" if "" in strings else "be strings", stop)
    return strings


CONTEXT = 8
"""Tokens before a token by which a decoder knows what to make of it: a character has four bytes at most."""


def _drawn(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], is_drawn: Sequence[bool]
) -> Iterator[tuple[int, int]]:
    """The stretches of characters, from their first to before their last, to which drawn tokens contribute.

    A token's characters depend on those before it (half of a character, a space that only stands within a text), so that each
    run of tokens is decoded behind a few of its own.
    """
    start = length = 0  # of the run's tokens; of the characters before it
    for drawn, run in groupby(is_drawn):
        end = start + sum(1 for _ in run)
        context = tokens[max(0, start - CONTEXT) : start]
        before, both = (str(tokenizer.decode(list(ids))) for ids in (context, [*context, *tokens[start:end]]))
        settled = common(before.rstrip("\ufffd"), both)  # the rest is a character that is not whole yet
        first, length = length - len(before) + settled, length + len(both) - len(before)
        if drawn and first < length:
            yield first, length
        start = end
