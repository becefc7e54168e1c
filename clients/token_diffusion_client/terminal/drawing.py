"""A stream as rich draws it: the samples with each token in the colour of its age, and a line of where it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..cells import MASK, Age, Cell, Reader, visible
from ..protocol.canvas import Canvas
from ..protocol.events import BlockEvent, DoneEvent, Event, StartEvent

Colouring = Literal["age", "confidence"]
COLOURINGS: tuple[Colouring, ...] = get_args(Colouring)

STYLES = {
    Age.FIXED: "bold",
    Age.OPEN: "dim",
    Age.FRESH: "bold green",
    Age.REWRITTEN: "bold magenta",
    Age.SETTLED: "",
}
REWRITTEN = "underline"
"""Beside any colour, as long as it stands."""

SURENESS = {0.05: "red", 0.25: "dark_orange", 0.6: "yellow", 1.0: "cyan"}
"""Style of a token by the probability that it had, at most, when it was set."""


def _legend(*words: tuple[str, str]) -> Text:
    return Text("  ", no_wrap=True, overflow="ellipsis").join(Text(word, style=style) for word, style in words)


LEGENDS: dict[Colouring, Text] = {
    "age": _legend(
        (Age.FRESH.value, STYLES[Age.FRESH]),
        (Age.REWRITTEN.value, f"{STYLES[Age.REWRITTEN]} {REWRITTEN}"),
        (Age.OPEN.value, STYLES[Age.OPEN]),
    ),
    "confidence": _legend(
        *((f"p ≤ {bound:g}", style) for bound, style in SURENESS.items()),
        (Age.REWRITTEN.value, REWRITTEN),
        (Age.OPEN.value, STYLES[Age.OPEN]),
    ),
}


def style_of(cell: Cell, colouring: Colouring) -> str:
    """How a cell is drawn."""
    style = STYLES[cell.age]
    if colouring == "confidence" and cell.age not in (Age.FIXED, Age.OPEN):
        probability = cell.probability
        style = "" if probability is None else next(each for bound, each in SURENESS.items() if probability <= bound)
    return f"{style} {REWRITTEN}".strip() if cell.rewritten else style


class Drawing:
    """One stream, drawn as often as a console asks for it; without a `reader` only how far it is."""

    def __init__(self, reader: Reader | None, colouring: Colouring = "age") -> None:
        self._reader, self._colouring = reader, colouring
        self._start: StartEvent | None = None
        self._canvas: Canvas | None = None
        self._blocks_done = 0

    def show(self, event: Event) -> None:
        """Take in `event`."""
        if isinstance(event, StartEvent):
            self._start, self._canvas = event, Canvas(event)
        elif self._canvas is not None:
            self._canvas.apply(event)
        if isinstance(event, BlockEvent):
            self._blocks_done = event.block + 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Cut to the screen's height, as what has scrolled away cannot be drawn again."""
        if self._canvas is None or self._start is None:
            yield Text("waiting", style="dim")
            return
        lines = [line for text in self.samples() for line in folded(text, options.max_width)]
        room = max((options.height or options.size.height) - 4, 1)
        yield from lines[:room]
        if len(lines) > room:
            yield Text(f"… {len(lines) - room} more lines", style="dim", no_wrap=True, overflow="ellipsis")
        yield self._progress(self._start, self._canvas)
        if self._reader is not None:
            yield LEGENDS[self._colouring]

    def samples(self) -> Iterator[Text]:
        """The samples as they are now, whole; none where they cannot be read."""
        canvas = self._canvas
        if self._reader is None or canvas is None:
            return
        count = len(canvas.tokens)
        for sample in range(count):
            text = label(sample, count)
            for cell in self._reader.cells(canvas, sample):
                text.append(cell.before).append(cell.text.expandtabs(1), style=style_of(cell, self._colouring))
            yield text

    def _progress(self, start: StartEvent, canvas: Canvas) -> Table:
        """Steps are counted through all blocks, num_inference_steps is per block."""
        step, total = canvas.step, start.num_inference_steps
        if total is not None:
            step = max(step - self._blocks_done * total, 0)
        facts = Text(no_wrap=True, overflow="ellipsis")
        block = f"block {self._blocks_done + 1} · " if self._blocks_done else ""
        of = "" if total is None else f"/{total}"
        where = f"{block}step {step}{of} · t {canvas.t:.3f} · nfe {canvas.nfe}"
        facts.append(f"{where} · {visible(start.model)} · seed {start.seed}", style="dim")
        line = Table.grid(padding=(0, 1))
        line.add_row(*([] if total is None else [ProgressBar(total=total, completed=step, width=16)]), facts)
        return line


def label(sample: int, count: int) -> Text:
    """What tells one sample from the others."""
    return Text().append(f"{sample}│ " if count > 1 else "", style="dim")


def folded(text: Text, width: int) -> Iterator[Text]:
    """Lines of at most `width` columns, broken at white space where possible, and between masks anywhere."""
    cuts, used = [], 0
    for start, unit in _units(text.plain, width):
        size = cell_len(unit)
        if used and used + size > width:
            cuts.append(start)
            used = 0
        used += size
        if unit == "\n":
            cuts.append(start + 1)
            used = 0
    for line in text.divide(cuts):
        line.rstrip()
        yield line


def _units(text: str, width: int) -> Iterator[tuple[int, str]]:
    """What stays on one line, each with its place: words, but those wider than a line character by character."""
    for match in re.finditer(rf"\n|[^\S\n]|{MASK}|[^\s{MASK}]+", text):
        parts = [match[0]] if cell_len(match[0]) <= width else match[0]
        yield from ((match.start() + offset, part) for offset, part in enumerate(parts))


def final(done: DoneEvent, start: StartEvent | None, coloured: Iterable[Text] = ()) -> Iterator[Text]:
    """The texts, whole, as they are `coloured` where they are, and what they took."""
    plain = [label(index, len(done.samples)).append(visible(sample.text)) for index, sample in enumerate(done.samples)]
    yield from list(coloured) or plain
    usage, seconds = done.usage, done.timings.total_ms / 1000
    seed = done.seed if done.seed is not None or start is None else start.seed
    skipped = f" ({usage.forwards_skipped} steps without one)" if usage.forwards_skipped else ""
    facts = f"{usage.completion_tokens} tokens · {usage.nfe} forward passes{skipped} · {seconds:.2f} s · seed {seed}"
    yield Text(f"{facts} · {visible(done.finish_reason)}", style="dim")


def watch(
    events: Iterable[Event],
    console: Console,
    reader_of: Callable[[str], Reader | None],
    colouring: Colouring = "age",
) -> None:
    """Draw the events of one stream, then the texts that it has come to; `reader_of` a model's name reads its tokens.

    By confidence the texts stay coloured, and tell all tokens, those behind a text's end, too.
    """
    start: StartEvent | None = None
    done: DoneEvent | None = None
    drawing = Drawing(None)
    with Live(drawing, console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        for event in events:
            if isinstance(event, StartEvent):
                start, drawing = event, Drawing(reader_of(event.model), colouring)
                live.update(drawing)
            drawing.show(event)
            if isinstance(event, DoneEvent):
                done = event
            elif not isinstance(event, BlockEvent):
                live.refresh()
    coloured = drawing.samples() if colouring == "confidence" else ()
    for text in final(done, start, coloured) if done is not None else ():
        console.print(text, soft_wrap=True)
