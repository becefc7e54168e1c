"""A stream in a Jupyter notebook: each token in the colour of the step that set it, redrawn in place while it denoises.

picture = Picture(client.tokens("mdlm"))
picture.follow(client.stream_sample("ROMEO:", model="mdlm"))    # live; with an AsyncClient `await` it
picture                                                         # what it has come to

Picture.of(client.sample("ROMEO:", model="mdlm"), client.tokens("mdlm"))
"""

from __future__ import annotations

import html
import time
from collections.abc import AsyncIterable, Coroutine, Iterable
from typing import Any, Self, overload

from .cells import Reader, visible
from .protocol.answers import Vocabulary
from .protocol.canvas import Canvas
from .protocol.events import DoneEvent, Event, StartEvent

PAUSE_S = 0.08
"""Between two drawings: a browser can draw no more."""

FIRST_HUE, LAST_HUE = 250, 0
"""From blue, set early, to red, set late."""


class Picture:
    """The samples of one request, as far as they are; `done` is its last event, None until then.

    Everything that a server sent is escaped, and what would be obeyed is made visible.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._reader = Reader(vocabulary)
        self._canvas: Canvas | None = None
        self._num_steps = 1
        self._facts = "waiting"
        self._handle: Any = None
        self._drawn = 0.0
        self.done: DoneEvent | None = None

    @classmethod
    def of(cls, done: DoneEvent, vocabulary: Vocabulary) -> Self:
        """The picture of a finished request."""
        picture = cls(vocabulary)
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
            style = "" if not cell.step else f' style="background:{colour(cell.step, last)};border-radius:3px"'
            told = f"step {cell.step} · token {token_id}" if cell.step else f"token {token_id}"
            cells.append(f'{cell.before}<span title="{told}"{style}>{html.escape(cell.text)}</span>')
        layout = "white-space:pre-wrap;unicode-bidi:isolate;line-height:1.7;margin-bottom:.5em"
        return f'<div dir="auto" style="{layout}">{"".join(cells)}</div>'


def colour(step: int, last: int) -> str:
    """The background of what was set at `step` of `last`; it lets the page's own, dark or light, shine through."""
    late = (step - 1) / max(last - 1, 1)
    return f"hsla({FIRST_HUE + (LAST_HUE - FIRST_HUE) * late:.0f},80%,55%,.35)"
