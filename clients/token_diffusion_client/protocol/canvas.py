"""The samples of a stream at any moment: the initial state with all changes so far set."""

from __future__ import annotations

from .errors import InvalidEvent
from .events import DoneEvent, Event, StartEvent, StateEvent


class Canvas:
    """Follows one stream: `canvas = Canvas(start)`, then `canvas.apply(event)` for each later event.

    Attributes:
        tokens: current token ids, [num_samples][seq_len].
        text: current text of each sample, None as long as the server sent none: it takes include_text, or `done`.
        step, t, nfe: of the last state; 0, 1.0 and 0 before it.
    """

    def __init__(self, start: StartEvent) -> None:
        self.tokens = [list(sample) for sample in start.tokens]
        self.text: list[str] | None = None
        self.step, self.t, self.nfe = 0, 1.0, 0

    def apply(self, event: Event) -> None:
        """Set what `event` changes. Raises InvalidEvent for a change outside [num_samples, seq_len]."""
        if isinstance(event, StateEvent):
            self.step, self.t, self.nfe = event.step, event.t, event.nfe
            self.text = event.text if event.text is not None else self.text
            for sample, position, token_id in event.changes:
                self._set(sample, position, token_id)
            if event.keyframe is not None:
                self.tokens = [list(sample) for sample in event.keyframe]
        elif isinstance(event, DoneEvent):
            self.text = [sample.text for sample in event.samples]

    def _set(self, sample: int, position: int, token_id: int) -> None:
        if not (0 <= sample < len(self.tokens) and 0 <= position < len(self.tokens[sample])):
            shape = [len(self.tokens), len(self.tokens[0]) if self.tokens else 0]
            raise InvalidEvent(f"state.changes must be inside {shape}, got {[sample, position, token_id]}")
        self.tokens[sample][position] = token_id
