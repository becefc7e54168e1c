"""How one request's updates get from the engine's thread to those who read: by what is so now, never by a queue.

A change is "set", so a story can be told from anywhere: the stream knows of each position what it holds and which update
set it last, and a reader is no more than how far it has read. However many read, however slowly, and whoever comes back
in the middle: what waits for them takes no memory, and the engine never waits.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from token_diffusion.engine.batch import BlockEnd, Result, Update

from ..errors import APIError


@dataclass(frozen=True)
class Telling:
    """How a request wants to be told, to each of its readers.

    stream_every: updates that make a state worth telling. include_text: states are told as text, too. keyframe_every:
    states from one that is told whole to the next; None for none. stop: what ends the text of a sample, in the end.
    start: the token with which that text begins, what comes before it being a conversation as its template writes it.
    preset: fields that a preset has filled in.
    """

    stream_every: int = 1
    include_text: bool = False
    keyframe_every: int | None = None
    stop: Sequence[str] = ()
    start: int = 0
    preset: Mapping[str, Any] = field(default_factory=dict)


class Place(NamedTuple):
    """A place in a request's story: after so many updates, and so many of its blocks."""

    updates: int = 0
    blocks: int = 0


START = Place()


@dataclass(frozen=True)
class News:
    """What happened between two places; the beginning comes first, and alone.

    tokens: int32 [num_samples, seq_len], the state after `changes`, which are (sample, position, token_id).
    logprobs: float32 [num_samples, seq_len], where they are asked for, of the tokens of that state; NaN where there is none.
    """

    tokens: np.ndarray
    logprobs: np.ndarray | None = None
    begins: bool = False
    before: Place = START
    after: Place = START
    step: int = 0
    t: float = 1.0
    nfe: int = 0
    changes: list[tuple[int, int, int]] = field(default_factory=list)
    blocks: list[BlockEnd] = field(default_factory=list)
    result: Result | None = None
    error: APIError | None = None

    @property
    def num_updates(self) -> int:
        return self.after.updates - self.before.updates

    @property
    def changed_logprobs(self) -> list[float] | None:
        """Those of the changes, in their order."""
        if self.logprobs is None:
            return None
        samples, positions, _ = zip(*self.changes, strict=True) if self.changes else ((), (), ())
        found: list[float] = self.logprobs[list(samples), list(positions)].tolist()
        return found


class Stream:
    """A request's story so far, written by the engine (`begin`, `publish`) or by anyone (`fail`), read by 0..n readers.

    `step`, `t` and `nfe` are those of the last update; `result` or `error` is there once it has ended, unless it was `dismissed`.
    `num_merged` counts updates that a reader got later than it wanted, together with others.
    """

    def __init__(self, telling: Telling | None = None) -> None:
        self.telling = telling or Telling()
        self._lock = threading.Lock()
        self._readers: list[Reader] = []
        self._initial: np.ndarray | None = None
        self._tokens = self._set_by = np.zeros((0, 0), np.int32)
        self._logprobs: np.ndarray | None = None  # of the first update on that has any
        self._blocks: list[BlockEnd] = []
        self._num_updates = 0
        self.result: Result | None = None
        self.error: APIError | None = None
        self.dismissed = False
        self.step, self.t, self.nfe = 0, 1.0, 0
        self.arrived = time.perf_counter()
        self.queue_ms = self.first_state_ms = self.total_ms = 0.0
        self.num_merged = 0

    @property
    def ended(self) -> bool:
        return self.result is not None or self.error is not None or self.dismissed

    @property
    def outcome(self) -> str | None:
        """Once it has ended, "done" or the type of its error."""
        if self.error is not None:
            return self.error.event.error.type
        return "done" if self.ended else None

    @property
    def place(self) -> Place:
        """Where the story has got to."""
        return Place(self._num_updates, len(self._blocks))

    @property
    def num_readers(self) -> int:
        return len(self._readers)

    # What the engine's thread calls; `fail` and `dismiss` may be called from anywhere.

    def begin(self, tokens: list[list[int]]) -> None:
        """The rows have joined the batch; `tokens` [num_samples][seq_len] is their initial state."""
        with self._lock:
            self.queue_ms = self._elapsed_ms()
            self._initial = np.array(tokens, np.int32)
            self._tokens = self._initial.copy()
            self._set_by = np.zeros_like(self._tokens)
            self._wake()

    def publish(self, update: Update) -> None:
        """One more update; after the end of the stream it is dropped."""
        with self._lock:
            if self.ended:
                return
            self._num_updates += 1
            self.step, self.t, self.nfe = update.step, update.t, update.nfe
            tokens, set_by = self._tokens.data, self._set_by.data  # of a cell quicker than the arrays
            for sample, position, token in update.changes:
                tokens[sample, position] = token
                set_by[sample, position] = self._num_updates
            if update.logprobs is not None:
                self._note(update.changes, update.logprobs)
            self._blocks += update.blocks
            self.result = update.result
            self.first_state_ms = self.first_state_ms or self._elapsed_ms()
            self.total_ms = self._elapsed_ms()
            self._wake()

    def _note(self, changes: Sequence[tuple[int, int, int]], logprobs: Sequence[float | None]) -> None:
        if self._logprobs is None:
            self._logprobs = np.full(self._tokens.shape, np.nan, np.float32)
        for (sample, position, _), logprob in zip(changes, logprobs, strict=True):
            self._logprobs[sample, position] = np.nan if logprob is None else logprob

    def fail(self, error: APIError) -> None:
        """End the stream with `error`, unless it has ended already."""
        with self._lock:
            if self.ended:
                return
            self.error = error
            self.total_ms = self._elapsed_ms()
            self._wake()

    def dismiss(self) -> None:
        """End the stream where it is, unless it has ended already: as much of it as was wanted is there."""
        with self._lock:
            if self.ended:
                return
            self.dismissed = True
            self.total_ms = self._elapsed_ms()
            self._wake()

    # What the event loop calls.

    def take_merged(self) -> int:
        """How many updates were merged since this was last asked, for whoever counts them."""
        merged, self.num_merged = self.num_merged, 0
        return merged

    def attach(self, after: Place | None = None, *, end_alone: bool = False) -> Reader:
        """One more reader: of the whole story, or of what came `after`, or of the end alone."""
        reader = Reader(self, after, end_alone)
        with self._lock:
            self._readers.append(reader)
            reader.wake()
        return reader

    def detach(self, reader: Reader) -> None:
        """It reads no more."""
        with self._lock:
            self._readers.remove(reader)

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self.arrived) * 1e3

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    def _news(self, told: Place) -> News:
        """All that is not `told`. Where a position was set more than once, the last time counts."""
        cells = np.flatnonzero(self._set_by > told.updates)
        width = self._tokens.shape[1]
        samples, positions = (cells // width).tolist(), (cells % width).tolist()
        return News(
            self._tokens.copy(),
            None if self._logprobs is None else self._logprobs.copy(),
            before=told,
            after=self.place,
            step=self.step,
            t=self.t,
            nfe=self.nfe,
            changes=list(zip(samples, positions, self._tokens.ravel()[cells].tolist(), strict=True)),
            blocks=self._blocks[told.blocks :],
            result=self.result,
            error=self.error,
        )


class Reader:
    """One coroutine that reads a stream; made by `Stream.attach`."""

    def __init__(self, stream: Stream, after: Place | None, end_alone: bool) -> None:
        self._stream = stream
        self._end_alone = end_alone
        self._started = end_alone or after is not None
        self._told = after or START
        self._reads = False  # whoever comes late is not slow
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._woken = False

    async def read(self, timeout_s: float | None) -> News | None:
        """All news, once there are enough of them; None if there are not within `timeout_s` seconds, should it be limited."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            return None
        with self._stream._lock:
            news = self._take()
            if not self._is_due():
                self._ready.clear()
                self._woken = False
        return news

    def wake(self) -> None:
        """Tell the reader if it has something to read and does not know yet. A loop that is closed has no reader."""
        if self._woken or not self._is_due():
            return
        self._woken = True
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ready.set)

    def _take(self) -> News:
        if not self._started and self._stream._initial is not None:
            self._started = self._reads = True
            return News(self._stream._initial, begins=True)
        stream = self._stream
        news = stream._news(stream.place if self._end_alone else self._told)
        if self._reads:
            stream.num_merged += max(0, news.num_updates - stream.telling.stream_every)
        self._reads = True
        self._told = news.after
        return news

    def _is_due(self) -> bool:
        stream = self._stream
        if stream.ended:
            return True
        if self._end_alone:
            return False
        if not self._started and stream._initial is not None:
            return True
        unread = stream._num_updates - self._told.updates
        return unread >= stream.telling.stream_every or len(stream._blocks) > self._told.blocks
