"""Watch text denoise in a terminal: masks dim, what has just changed bright, each sample redrawn in place."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple, TextIO

from .protocol.events import BlockEvent, DoneEvent, Event, StartEvent, StateEvent

MASK = "░"
DIM, FRESH, RESET = "\x1b[2m", "\x1b[1;32m", "\x1b[0m"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
ERASE_LINE, ERASE_BELOW = "\x1b[2K", "\x1b[J"

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Piece(NamedTuple):
    """Text that stays on one line, and its style."""

    text: str
    style: str = ""

    @property
    def is_word(self) -> bool:
        return self.style != DIM and not self.text.isspace()


def watch(events: Iterable[Event], out: TextIO, *, mask_tokens: Iterable[str] = ("[MASK]",)) -> None:
    """Draw the events of one stream on `out`; if that is no terminal, print the final texts only.

    Args:
        events: of a request with include_text, else there is nothing to draw before `done`.
        mask_tokens: how a mask is spelled in the server's texts.
    """
    if not out.isatty():
        for event in events:
            if isinstance(event, DoneEvent):
                out.writelines(f"{sample.text}\n" for sample in event.samples)
                out.flush()
        return
    screen = Screen(out, mask_tokens)
    out.write(HIDE_CURSOR)
    try:
        for event in events:
            screen.show(event)
    finally:
        out.write(SHOW_CURSOR)
        out.flush()


class Screen:
    """The lines that one stream occupies at the bottom of a terminal."""

    def __init__(self, out: TextIO, mask_tokens: Iterable[str] = ("[MASK]",)) -> None:
        self._out = out
        masks = "|".join(re.escape(token) for token in mask_tokens) or r"(?!)"
        self._pieces = re.compile(rf"(?P<mask>{masks})|(?P<space>\s)|(?P<word>(?:(?!{masks})\S)+)")
        self._drawn = 0
        self._texts: list[list[Piece]] = []
        self._num_inference_steps: int | None = None
        self._seed = 0
        self._blocks_done = 0
        self._state = StateEvent(step=0, t=1.0, nfe=0, changes=[])

    def show(self, event: Event) -> None:
        """Draw the state after `event`."""
        if isinstance(event, StartEvent):
            self._num_inference_steps, self._seed = event.num_inference_steps, event.seed
            self._draw()
        elif isinstance(event, StateEvent):
            self._state = event
            if event.text is not None:
                self._texts = self._mark_fresh(event.text)
            self._draw()
        elif isinstance(event, BlockEvent):
            self._blocks_done = event.block + 1
        elif isinstance(event, DoneEvent):
            self._finish(event)

    def _mark_fresh(self, texts: list[str]) -> list[list[Piece]]:
        """Each text in pieces, words that its last state did not have in FRESH."""
        known = len(self._texts) == len(texts)
        previous: Sequence[list[Piece] | None] = self._texts if known else [None] * len(texts)
        return [
            mark_fresh(old, [self._style(match) for match in self._pieces.finditer(CONTROL.sub(" ", text))])
            for old, text in zip(previous, texts, strict=True)
        ]

    @staticmethod
    def _style(match: re.Match[str]) -> Piece:
        if match.lastgroup == "mask":
            return Piece(MASK, DIM)
        return Piece(" " if match.lastgroup == "space" and match[0] != "\n" else match[0])

    def _draw(self) -> None:
        """Redraw in place, cut to the terminal's height: lines that have scrolled away cannot be redrawn."""
        columns, rows = shutil.get_terminal_size()
        # A character in the last column makes some terminals wrap and others wait, so it stays free.
        width = columns - 1
        lines = [line for index, text in enumerate(self._texts) for line in self._lines(index, text, width)]
        lines = [*lines[: max(rows - 2, 0)], paint(self._progress()[:width], DIM)]
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        self._out.write(up + "".join(f"{ERASE_LINE}{line}\n" for line in lines) + ERASE_BELOW)
        self._out.flush()
        self._drawn = len(lines)

    def _lines(self, index: int, text: list[Piece], width: int) -> Iterator[str]:
        label = self._label(index, len(self._texts))
        for number, line in enumerate(wrap(text, max(width - len(label), 2))):
            yield paint(label if number == 0 else " " * len(label), DIM) + line

    @staticmethod
    def _label(index: int, num_samples: int) -> str:
        return f"{index}│ " if num_samples > 1 else ""

    def _progress(self) -> str:
        """Steps are counted through all blocks, num_inference_steps is per block."""
        step, total, block = self._state.step, "", ""
        if self._num_inference_steps is not None:
            step = max(step - self._blocks_done * self._num_inference_steps, 0)
            total = f"/{self._num_inference_steps}"
        if self._blocks_done:
            block = f"block {self._blocks_done + 1} · "
        return f"{block}step {step}{total} · nfe {self._state.nfe} · t {self._state.t:.3f}"

    def _finish(self, done: DoneEvent) -> None:
        """Replace the drawing by the whole texts, which the terminal itself wraps, so that they can be copied."""
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        self._out.write(up + ERASE_BELOW)
        for index, sample in enumerate(done.samples):
            label = self._label(index, len(done.samples))
            self._out.write(f"{paint(label, DIM)}{CONTROL.sub(' ', sample.text)}\n")
        usage, seconds = done.usage, done.timings.total_ms / 1000
        summary = f"{usage.completion_tokens} tokens · nfe {usage.nfe} · {seconds:.2f} s · seed {self._seed}"
        self._out.write(paint(summary, DIM) + "\n")
        self._out.flush()
        self._drawn = 0


def mark_fresh(old: list[Piece] | None, new: list[Piece]) -> list[Piece]:
    """`new` with the words in FRESH that `old` does not have at their place; none without an `old`."""
    if old is None:
        return new
    before = [piece.text for piece in old if piece.is_word]
    words = [index for index, piece in enumerate(new) if piece.is_word]
    matcher = SequenceMatcher(None, before, [new[index].text for index in words])
    kept = {words[match.b + offset] for match in matcher.get_matching_blocks() for offset in range(match.size)}
    fresh = set(words) - kept
    return [Piece(piece.text, FRESH) if index in fresh else piece for index, piece in enumerate(new)]


def wrap(pieces: Iterable[Piece], width: int) -> Iterator[str]:
    """Painted lines of at most `width` cells (2 or more), broken at white space where possible."""
    line, used = "", 0
    for text, style in _fit(pieces, width):
        size = cells(text)
        if text == "\n" or used + size > width:
            yield line
            line, used = "", 0
        if not text.isspace() or (used and text != "\n"):
            line, used = line + paint(text, style), used + size
    yield line


def _fit(pieces: Iterable[Piece], width: int) -> Iterator[Piece]:
    """Pieces, those wider than a line cut into characters."""
    for text, style in pieces:
        fitting = [text] if cells(text) <= width else text
        yield from (Piece(part, style) for part in fitting)


def cells(text: str) -> int:
    """Columns that `text` takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def paint(text: str, style: str) -> str:
    """`text` in `style`, plain where the environment sets NO_COLOR."""
    return f"{style}{text}{RESET}" if style and text and not os.environ.get("NO_COLOR") else text
