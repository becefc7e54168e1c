"""A text to be scored: token ids of which some are given."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..errors import ParameterError
from ..facts import UNKNOWN, Frame
from .encoding import plain_ids


@dataclass(frozen=True)
class Passage:
    """A sequence's `tokens`, of which `given` positions are neither noised nor counted, as in training: frame, prefix, and
    tokens that stand for something that the tokenizer does not know.

    start, end: where the text itself lies, after frame and prefix. num_unknown: of its tokens.
    """

    tokens: list[int]
    given: tuple[int, ...]
    start: int
    end: int
    num_unknown: int

    @property
    def text_tokens(self) -> list[int]:
        """The text's own."""
        return self.tokens[self.start : self.end]


def encode_passage(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    prefix: str | None = None,
    max_tokens: int | None = None,
    frame: Frame = UNKNOWN.frame,
    name: str = "text",
) -> Passage:
    """A text to be scored, after a prefix if there is one. Control tokens typed in either are ordinary text.

    The ids are those of the prefix and then those of the text, each tokenised in its place: where the two meet no token holds
    parts of both, and the text begins with a space only if it is written there.

    Args:
        max_tokens: bound of the sequence's length. name: of the text, for errors.

    Raises:
        ParameterError: there is no known token in the text, it does not fit, it is no Unicode, or it spells a control token that
            the tokenizer cannot write as text; or the prefix is so.
    """
    room = sys.maxsize if max_tokens is None else max_tokens - len(frame)
    before = plain_ids(tokenizer, "prefix", prefix or "", room)
    ids = plain_ids(tokenizer, name, text, room, continuing=bool(before))
    if not ids:
        raise ParameterError(name, "hold at least one token", text)
    if len(before) + len(ids) > room:
        parts = (f"{len(frame)} of them the frame's",) * bool(frame) + (f"{len(before)} the prefix's",) * bool(before)
        rule = ", ".join([f"fit into {max_tokens} tokens", *parts])
        raise ParameterError(name, rule, f"{len(ids)} tokens")
    tokens, start = frame.around(before + ids), len(frame.prefix) + len(before)
    end, special = start + len(ids), set(tokenizer.all_special_ids)
    given = [position for position, id in enumerate(tokens) if not start <= position < end or id in special]
    unknown = len(given) - (len(tokens) - len(ids))
    if unknown == len(ids):
        raise ParameterError(name, "hold at least one token that the tokenizer knows", text)
    return Passage(tokens, tuple(given), start, end, unknown)
