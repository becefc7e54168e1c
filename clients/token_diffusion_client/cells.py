"""A canvas as people see it: what each token reads as, and how long it has been so."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from enum import Enum

from .protocol.answers import Vocabulary
from .protocol.canvas import Canvas

MASK = "░"

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # those that turn the direction of what follows
    "\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that a terminal or a page would obey, or hide, in place of showing them."""


def visible(text: str) -> str:
    """`text` with all that would be obeyed spelled out: ESC as ␛, others by their number, `<U+202E>`."""
    return HIDDEN.sub(_picture, text)


def one_line(text: str) -> str:
    """The same on one line: errors, and texts in a table."""
    return visible(text).replace("\n", "␊").replace("\t", "␉")


def _picture(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x20:
        return chr(0x2400 + number)
    return "␡" if number == 0x7F else f"<U+{number:04X}>"


class Age(Enum):
    """What a position is in."""

    FIXED = "fixed"
    """given by the request"""
    OPEN = "open"
    """a mask, or noise that nobody has set yet"""
    FRESH = "fresh"
    """set for the first time by the last state"""
    REWRITTEN = "rewritten"
    """set by the last state, not for the first time"""
    SETTLED = "settled"
    """set by an earlier state"""


@dataclass(frozen=True)
class Cell:
    """One position. `text` is visible, and what stands `before` it is the space between two words, if there is one."""

    before: str
    text: str
    age: Age
    step: int
    """that last set it; 0 where none did, and of a mask"""
    rewritten: bool = False
    """set to something, and then to something else"""
    logprob: float | None = None
    """that the network gave it when it was set; None where that was not told"""

    @property
    def probability(self) -> float | None:
        """The same, without its logarithm."""
        return None if self.logprob is None else math.exp(min(self.logprob, 0.0))


class Reader:
    """Reads the tokens of one checkpoint.

    Vocabularies whose words do not hold their spaces (WordPiece) get one between two words here.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._pieces = vocabulary.pieces
        self._mask = vocabulary.mask_token_id
        self._special = set(vocabulary.special_token_ids)
        self._spaced = any(piece[:1].isspace() for piece in vocabulary.pieces)

    def cells(self, canvas: Canvas, sample: int) -> list[Cell]:
        """The cells of a sample after the last event."""
        columns = (canvas.tokens, canvas.set_at, canvas.times, canvas.logprobs)
        found: list[Cell] = []
        for token_id, step, times, logprob in zip(*(column[sample] for column in columns), strict=True):
            before, text = self._spell(token_id, first=not found)
            age, is_mask = self._age(canvas, token_id, step, times), token_id == self._mask
            found.append(Cell(before, text, age, 0 if is_mask else step, times > 1 and not is_mask, logprob))
        return found

    def _spell(self, token_id: int, first: bool) -> tuple[str, str]:
        if token_id == self._mask:
            return "" if self._spaced or first else " ", MASK
        piece = self._pieces[token_id] if 0 <= token_id < len(self._pieces) else f"<{token_id}>"
        if self._spaced or token_id in self._special:
            return "", visible(piece)
        if piece.startswith("##"):
            return "", visible(piece[2:])
        glued = first or (len(piece) == 1 and unicodedata.category(piece) in ("Po", "Pe", "Pf"))
        return "" if glued else " ", visible(piece)

    def _age(self, canvas: Canvas, token_id: int, step: int, times: int) -> Age:
        if token_id == self._mask:
            return Age.OPEN
        if not times:
            return Age.FIXED if canvas.process == "absorbing" and token_id not in self._special else Age.OPEN
        if step < canvas.step:
            return Age.SETTLED
        return Age.FRESH if times == 1 else Age.REWRITTEN
