"""A stream in a Jupyter notebook: each token in the colour of the step that set it, or of how sure the model was of it,
redrawn in place while it denoises; what was set anew is underlined.

picture = Picture(client.tokens("mdlm"))
picture.follow(client.stream_sample("Once upon a time", model="mdlm"))    # live; with an AsyncClient `await` it
picture                                                         # what it has come to

Picture.of(client.sample("Once upon a time", model="mdlm"), client.tokens("mdlm"))
Picture.of(client.sample("Once upon a time", model="mdlm", logprobs=True), client.tokens("mdlm"), color="confidence")
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import AsyncIterable, Coroutine, Iterable
from typing import Any, Literal, Self, overload

from .cells import Cell, Reader, visible
from .protocol.answers import Vocabulary
from .protocol.canvas import Canvas
from .protocol.errors import InvalidEvent
from .protocol.events import DoneEvent, Event, StartEvent

PAUSE_S = 0.08
"""Between two drawings: a browser can draw no more."""

FIRST_HUE, LAST_HUE = 250, 0
"""From blue, set early or unsurely, to red, set late or surely."""

Color = Literal["step", "confidence"]


class Picture:
    """The samples of one request, as far as they are; `done` is its last event, None until then.

    Everything that a server sent is escaped, and what would be obeyed is made visible. `color="confidence"` needs a request
    with `logprobs=True`.
    """

    def __init__(self, vocabulary: Vocabulary, color: Color = "step") -> None:
        if color not in ("step", "confidence"):
            raise ValueError(f"color must be step or confidence, got {color!r}")
        self._reader, self._color = Reader(vocabulary), color
        self._canvas: Canvas | None = None
        self._num_steps = 1
        self._facts = "waiting"
        self._handle: Any = None
        self._drawn = 0.0
        self.done: DoneEvent | None = None

    @classmethod
    def of(cls, done: DoneEvent, vocabulary: Vocabulary, color: Color = "step") -> Self:
        """The picture of a finished request."""
        picture = cls(vocabulary, color)
        tokens = [sample.tokens for sample in done.samples]
        seq_len = len(tokens[0]) if tokens else 0
        start = StartEvent(done.id or "", done.model or "", "", done.seed or 0, seq_len, None, tokens)
        picture.take(start)
        picture.take(done)
        return picture

    @overload
    def follow(self, events: Iterable[Event]) -> None: ...
    @overload
    def follow(self, events: AsyncIterable[Event]) -> Coroutine[Any, Any, None]: ...
    def follow(self, events: Any) -> Any:
        """Display this picture, and draw it anew as the events come; afterwards it can be displayed again."""
        if isinstance(events, AsyncIterable):
            return self._follow_awaiting(events)
        self._display()
        for event in events:
            self._see(event)
        return None

    async def _follow_awaiting(self, events: AsyncIterable[Event]) -> None:
        self._display()
        async for event in events:
            self._see(event)

    def take(self, event: Event) -> None:
        """Take in `event`, without drawing it."""
        if isinstance(event, StartEvent):
            self._canvas, self.done = Canvas(event), None
            self._num_steps = event.num_inference_steps or 1
        elif self._canvas is not None:
            self._canvas.apply(event)
        if isinstance(event, DoneEvent):
            self._finish(event)
        elif self._canvas is not None:
            canvas = self._canvas
            self._facts = f"step {canvas.step} · t {canvas.t:.3f} · {canvas.nfe} forward passes"

    def _finish(self, done: DoneEvent) -> None:
        self.done = done
        if self._canvas is not None:
            if [*map(len, done.step_map)] != [*map(len, self._canvas.tokens)]:
                raise InvalidEvent("done.step_map must have the shape of the tokens")
            self._canvas.set_at = [list(steps) for steps in done.step_map]
        seed = "" if done.seed is None else f" · seed {done.seed}"
        seconds = done.timings.total_ms / 1000
        self._facts = (
            f"{done.usage.completion_tokens} tokens · {done.usage.nfe} forward passes · {seconds:.2f} s{seed}"
        )

    def _see(self, event: Event) -> None:
        self.take(event)
        now = time.monotonic()
        is_due = isinstance(event, DoneEvent) or now - self._drawn > PAUSE_S
        if is_due and self._handle is not None:  # it is None where there is no notebook, which could draw it anew
            self._handle.update(self)
            self._drawn = now

    def _display(self) -> None:
        try:
            from IPython.display import display
        except ImportError:
            install = "pip install 'token-diffusion-client[notebook]'"
            raise ImportError(f"a picture that is redrawn needs IPython: {install}") from None
        self._handle = display(self, display_id=True)

    def __repr__(self) -> str:
        texts = [] if self.done is None else [visible(sample.text) for sample in self.done.samples]
        return "\n".join([*texts, f"({self._facts})"])

    def _repr_html_(self) -> str:
        canvas = self._canvas
        rows = [] if canvas is None else [self._row(canvas, sample) for sample in range(len(canvas.tokens))]
        facts = f'<div style="opacity:.6;font-size:85%">{html.escape(self._facts)}</div>'
        return f'<div style="font-family:monospace">{"".join(rows)}{facts}</div>'

    def _row(self, canvas: Canvas, sample: int) -> str:
        """One sample; its direction is that of its own first letter, and reaches no further."""
        last = max([1, *(step for steps in canvas.set_at for step in steps)])
        last = last if self.done is not None else max(last, self._num_steps)
        cells = []
        for cell, token_id in zip(self._reader.cells(canvas, sample), canvas.tokens[sample], strict=True):
            told = [f"step {cell.step}"] if cell.step else []
            told += [f"p = {cell.probability:.2f}"] if cell.probability is not None else []
            told += [f"token {token_id}", *(["rewritten"] if cell.rewritten else [])]
            style = self._style(cell, last)
            cells.append(f'{cell.before}<span title="{" · ".join(told)}"{style}>{html.escape(cell.text)}</span>')
        layout = "white-space:pre-wrap;unicode-bidi:isolate;line-height:1.7;margin-bottom:.5em"
        return f'<div dir="auto" style="{layout}">{"".join(cells)}</div>'

    def _style(self, cell: Cell, last: int) -> str:
        """The attribute that a cell has, if it has any."""
        ground = None
        if self._color == "confidence" and cell.probability is not None:
            ground = shade(math.sqrt(cell.probability))  # so that small ones can be told apart, too
        elif self._color == "step" and cell.step:
            ground = colour(cell.step, last)
        found = [] if ground is None else [f"background:{ground}", "border-radius:3px"]
        found += ["text-decoration:underline dotted"] if cell.rewritten else []
        return f' style="{";".join(found)}"' if found else ""


def colour(step: int, last: int) -> str:
    """The background of what was set at `step` of `last`."""
    return shade((step - 1) / max(last - 1, 1))


def shade(share: float) -> str:
    """The background at this share of the way, from 0 to 1; it lets the page's own, dark or light, shine through."""
    return f"hsla({FIRST_HUE + (LAST_HUE - FIRST_HUE) * share:.0f},80%,55%,.35)"
