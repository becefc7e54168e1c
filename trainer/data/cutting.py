"""Long documents in pieces whose tokens, end to end, are those of the whole: no tokenizer has to take in a book at once.

A text is cut before white space, where tokenizers end what they look at together, and only where this one is seen to: its
own pre-tokenizer must split the text around the cut (`CONTEXT` characters on both sides) into the same words whether the
sides are joined or apart, and its model must find the same tokens. So spaces that are put before a text, kept with a word,
joined to runs or to punctuation, or merged over, are met with by looking. A pre-tokenizer goes through a text from left to
right and a model sees a word at a time, so what holds around the cut holds for the whole. Where there is no such place (no
white space, or no words that a model is bounded by) the text stays in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from token_diffusion.text.plain import plain

from .reading.documents import Piece

PIECE_CHARS = 1 << 15
CONTEXT = 256
TRIES = 8
"""Places that are looked at for each `PIECE_CHARS` characters."""

BEFORE_SPACE = re.compile(r"(?<=\S)(?=\s)")


def cut(pieces: Iterable[Piece], tokenizer: PreTrainedTokenizerBase) -> Iterator[Piece]:
    """The same documents in other pieces, which can be tokenised one by one."""
    cutter = cutter_of(tokenizer)
    for document, group in groupby(pieces, attrgetter("document")):
        for number, text in enumerate(cutter.pieces(piece.text for piece in group)):
            yield Piece(text, document, number)


def cutter_of(tokenizer: PreTrainedTokenizerBase) -> Cutter:
    """Cuts as this tokenizer allows."""

    def same(before: str, after: str) -> bool:
        whole, left, right = plain(tokenizer).ids([before + after, before, after])
        return whole == left + right

    backend = getattr(tokenizer, "backend_tokenizer", None)
    return Cutter(backend if isinstance(backend, Tokenizer) else None, same)


class Cutter:
    """Finds the places at which text can be cut: where `backend` splits words (None: nothing is known of it), and where
    `same` says that two pieces have the tokens of both together."""

    def __init__(
        self, backend: Tokenizer | None, same: Callable[[str, str], bool] = lambda before, after: True
    ) -> None:
        # What the library gives back of these has no types.
        self.backend, self.same = cast(Any, backend), same

    def pieces(self, texts: Iterable[str]) -> Iterator[str]:
        """The text that `texts` are one after the other, in pieces of about `PIECE_CHARS` characters."""
        held, searched = "", 0
        for text in texts:
            for start in range(0, len(text), PIECE_CHARS):
                held += text if len(text) <= PIECE_CHARS else text[start : start + PIECE_CHARS]
                if len(held) < 2 * PIECE_CHARS:
                    continue
                place = self._place(held, max(searched, PIECE_CHARS))
                searched = len(held) - CONTEXT if place is None else 0
                if place is not None:
                    yield held[:place]
                    held = held[place:]
        if held:
            yield held

    def _place(self, text: str, start: int) -> int | None:
        """The first place from `start` on at which `text` can be cut, if one of the first few is."""
        if self.backend is not None and self.backend.pre_tokenizer is None:
            return None
        places = BEFORE_SPACE.finditer(text, start, len(text) - CONTEXT)
        for _, match in zip(range(TRIES), places, strict=False):
            before, after = (
                text[match.start() - CONTEXT : match.start()],
                text[match.start() : match.start() + CONTEXT],
            )
            if self._words(before + after) == self._words(before) + self._words(after) and self.same(before, after):
                return match.start()
        return None

    def _words(self, text: str) -> list[str]:
        """What the model sees one by one; nothing of a tokenizer that does not tell."""
        if self.backend is None:
            return []
        normalizer = self.backend.normalizer
        normal = text if normalizer is None else normalizer.normalize_str(text)
        return [word for word, _ in self.backend.pre_tokenizer.pre_tokenize_str(normal)]
