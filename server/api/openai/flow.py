"""The text of an answer as its tokens become final: each piece told once, and none that a later token could change."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from token_diffusion.text import decode

from ..protocol.events import FinishReason

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""The piece of a byte that is no character by itself; a run of them is decoded as one."""

BROKEN = "\N{REPLACEMENT CHARACTER}"
PENDING_BYTES = 3
"""Most bytes of a character that are there before its last one."""


class Spelling:
    """What tokens add to the text of those before them: spaces at the seam are kept, and a word that goes on goes on."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()) -> None:
        self._tokenizer, self._before = tokenizer, list(before)
        self._text_before = decode(tokenizer, self._before)
        self._cleans = _cleans_up(tokenizer)

    def text(self, ids: Sequence[int], *, keep_masks: bool = False) -> str:
        whole = decode(self._tokenizer, [*self._before, *ids], keep_masks=keep_masks)
        if whole.startswith(self._text_before):
            return whole[len(self._text_before) :]
        same = takewhile(lambda pair: pair[0] == pair[1], zip(whole, self._text_before, strict=False))
        return whole[len(list(same)) :]

    def firm(self, ids: Sequence[int]) -> str:
        """The beginning of `text(ids)` that stays, whatever tokens follow."""
        count = len(ids)
        while count and BYTE.fullmatch(self._piece(ids[count - 1])):
            count -= 1
        text = self.text(ids[:count])
        held = len(text) - len(text.rstrip(BROKEN))
        text = text[: len(text) - min(held, PENDING_BYTES)]
        # "do n ' t" becomes "don't" when its last piece comes, and so on: of what is cleaned up no more than two words take part.
        return text.rpartition(" ")[0].rpartition(" ")[0] if self._cleans else text

    def _piece(self, id: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(int(id)))


class Flow:
    """One answer, from its first token on.

    Args:
        stop: the text ends before the first of these strings. ends: and before the first of these tokens.
        begin: of an answer that nothing was given before, the token that begins a text: as its first one, it has not ended it.

    Attributes:
        text: what has been told. finish_reason: why it ended, None before. num_tokens: those that the answer is made of, the one
            that ended it included; what the network wrote behind it is no part of it.
    """

    def __init__(
        self, spelling: Spelling, stop: Sequence[str] = (), ends: Collection[int] = (), begin: int | None = None
    ) -> None:
        self._spelling, self._stop, self._ends, self._begin = spelling, stop, frozenset(ends), begin
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.num_tokens = 0
        self._ids: Sequence[int] = ()
        self._is_cut = False

    def advance(self, ids: Sequence[int], *, last: bool = False) -> str:
        """More of the text, if there is more to tell.

        Args:
            ids: all tokens from the answer's first one on that are final. last: no more will come.
        """
        if self.finish_reason is not None:
            return ""
        after = int(list(ids[:1]) == [self._begin])
        end = next((index for index in range(after, len(ids)) if ids[index] in self._ends), None)
        ids = ids[:end]
        is_whole = last or end is not None
        text = self._spelling.text(ids) if is_whole else self._spelling.firm(ids)
        self.num_tokens = len(ids) + (end is not None)
        cut, undecided = self._first_stop(text, is_whole)
        if cut is not None:
            text, self.finish_reason = text[:cut], "stop"
            self.num_tokens = self._tokens_until(ids, cut)
        elif is_whole:
            self.finish_reason = "length" if end is None else "stop"
        else:
            text = text[:undecided]
        more = text[len(self.text) :]
        self.text += more
        self._ids, self._is_cut = ids, cut is not None
        return more

    @property
    def num_shown(self) -> int:
        """How many of the answer's first tokens `text` shows, all of each; of a text that was cut the last one maybe in part.

        (Of that one white space alone is nothing.)
        """
        length = len(self.text.rstrip() if self._is_cut else self.text)

        def end(count: int) -> int:
            return len(self._spelling.text(self._ids[:count]))

        if self.finish_reason is None:
            return bisect_right(range(len(self._ids) + 1), length, key=end) - 1
        return bisect_left(range(len(self._ids)), length, key=end) if self._is_cut else len(self._ids)

    def _first_stop(self, text: str, is_whole: bool) -> tuple[int | None, int]:
        """Where the text is cut, None if nowhere yet, and from where on it may be the beginning of a string that cuts it."""
        start = len(self.text)  # none begins in what has been told
        found = min((at for string in self._stop if (at := text.find(string, start)) >= 0), default=None)
        begun = [] if is_whole else [_beginning(text, each, start) for each in self._stop]
        undecided = min(begun, default=len(text))
        if found is not None and found > undecided:  # a longer string may have begun before this one
            found = None
        return found, undecided

    def _tokens_until(self, ids: Sequence[int], cut: int) -> int:
        """How many tokens it took until the string was there that cuts the text at `cut`."""

        def is_there(count: int) -> bool:
            text = self._spelling.text(ids[:count])
            return any(text.startswith(string, cut) for string in self._stop)

        return bisect_left(range(len(ids)), True, key=is_there)


def _beginning(text: str, string: str, start: int) -> int:
    """The first place from `start` on where all that is left of `text` begins `string`, and does not end it; else its end."""
    start = max(start, len(text) - len(string) + 1)
    return next((at for at in range(start, len(text)) if string.startswith(text[at:])), len(text))


def _cleans_up(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether decoding takes spaces away before punctuation; of byte pair encodings transformers leaves them."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    return (
        bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
        and type(getattr(backend, "model", None)).__name__ != "BPE"
    )
