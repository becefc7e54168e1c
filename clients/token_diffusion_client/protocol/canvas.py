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
        times: how often each was set: more than once is rewritten; becoming a mask again counts, too.
        logprobs: the log-probability of each token when it was set, [num_samples][seq_len]; None where it was not told.
    """

    def __init__(self, start: StartEvent) -> None:
        self.process = start.process
        self.tokens = [list(sample) for sample in start.tokens]
        self.text: list[str] | None = None
        self.step, self.t, self.nfe = 0, 1.0, 0
        self.set_at = [[0] * len(sample) for sample in start.tokens]
        self.times = [[0] * len(sample) for sample in start.tokens]
        self.logprobs: list[list[float | None]] = [[None] * len(sample) for sample in start.tokens]

    def apply(self, event: Event) -> None:
        """Set what `event` changes. Raises InvalidEvent for what does not fit [num_samples, seq_len]."""
        if isinstance(event, StateEvent):
            self.step, self.t, self.nfe = event.step, event.t, event.nfe
            self.text = event.text if event.text is not None else self.text
            logprobs = [None] * len(event.changes) if event.logprobs is None else event.logprobs
            if len(logprobs) != len(event.changes):
                raise InvalidEvent(
                    f"state.logprobs must be one for each of {len(event.changes)} changes, got {len(logprobs)}"
                )
            for (sample, position, token_id), logprob in zip(event.changes, logprobs, strict=True):
                self._set(sample, position, token_id, logprob)
            for sample, tokens in enumerate(event.keyframe or []):
                for position, token_id in enumerate(tokens):
                    if not self._is(sample, position, token_id):
                        self._set(sample, position, token_id)
            if event.keyframe_logprobs is not None:
                self._know(event.keyframe_logprobs, "state.keyframe_logprobs")
        elif isinstance(event, DoneEvent):
            self.text = [sample.text for sample in event.samples]
            if event.logprobs is not None:
                self._know(event.logprobs, "done.logprobs")

    def _know(self, logprobs: list[list[float | None]], name: str) -> None:
        """Of every token."""
        if [*map(len, logprobs)] != [*map(len, self.tokens)]:
            raise InvalidEvent(f"{name} must have the shape of the tokens")
        self.logprobs = [list(sample) for sample in logprobs]

    def _is(self, sample: int, position: int, token_id: int) -> bool:
        return self._inside(sample, position) and self.tokens[sample][position] == token_id

    def _set(self, sample: int, position: int, token_id: int, logprob: float | None = None) -> None:
        if not self._inside(sample, position):
            shape = [len(self.tokens), len(self.tokens[0]) if self.tokens else 0]
            raise InvalidEvent(f"state.changes must be inside {shape}, got {[sample, position, token_id]}")
        self.tokens[sample][position] = token_id
        self.set_at[sample][position] = self.step
        self.times[sample][position] += 1
        self.logprobs[sample][position] = logprob

    def _inside(self, sample: int, position: int) -> bool:
        return 0 <= sample < len(self.tokens) and 0 <= position < len(self.tokens[sample])
