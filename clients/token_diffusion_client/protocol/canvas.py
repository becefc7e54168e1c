"""The samples of a stream at any moment: the initial state with all changes so far set."""

from __future__ import annotations

from .errors import InvalidEvent
from .events import DoneEvent, Event, StartEvent, StateEvent


class Canvas:
    """Follows one stream: `canvas = Canvas(start)`, then `canvas.apply(event)` for each later event.

    Attributes:
        process: that brings the noise: absorbing, uniform or hybrid.
        tokens: current token ids, [num_samples][seq_len].
        text: current text of each sample, None as long as the server sent none: it takes include_text, or `done`.
        step, t, nfe: of the last state; 0, 1.0 and 0 before it.
        set_at: the step of the state that last set each position, [num_samples][seq_len]; 0 where none did.
        times: how often each was set: more than once is rewritten.
    """

    def __init__(self, start: StartEvent) -> None:
        self.process = start.process
        self.tokens = [list(sample) for sample in start.tokens]
        self.text: list[str] | None = None
        self.step, self.t, self.nfe = 0, 1.0, 0
        self.set_at = [[0] * len(sample) for sample in start.tokens]
        self.times = [[0] * len(sample) for sample in start.tokens]

    def apply(self, event: Event) -> None:
        """Set what `event` changes. Raises InvalidEvent for a change outside [num_samples, seq_len]."""
        if isinstance(event, StateEvent):
            self.step, self.t, self.nfe = event.step, event.t, event.nfe
            self.text = event.text if event.text is not None else self.text
            for sample, position, token_id in event.changes:
                self._set(sample, position, token_id)
            for sample, tokens in enumerate(event.keyframe or []):
                for position, token_id in enumerate(tokens):
                    if not self._is(sample, position, token_id):
                        self._set(sample, position, token_id)
        elif isinstance(event, DoneEvent):
            self.text = [sample.text for sample in event.samples]

    def _is(self, sample: int, position: int, token_id: int) -> bool:
        return self._inside(sample, position) and self.tokens[sample][position] == token_id

    def _set(self, sample: int, position: int, token_id: int) -> None:
        if not self._inside(sample, position):
            shape = [len(self.tokens), len(self.tokens[0]) if self.tokens else 0]
            raise InvalidEvent(f"state.changes must be inside {shape}, got {[sample, position, token_id]}")
        self.tokens[sample][position] = token_id
        self.set_at[sample][position] = self.step
        self.times[sample][position] += 1

    def _inside(self, sample: int, position: int) -> bool:
        return 0 <= sample < len(self.tokens) and 0 <= position < len(self.tokens[sample])
