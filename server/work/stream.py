"""How one request's updates get from the engine's thread to the event loop: a place for one, never a queue.

A change is "set", so updates that nobody has read yet merge into one: for each position the last change counts. What
waits here is therefore never more than one state of the request, however slow its reader, and the engine never waits.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field

from token_diffusion.engine.batch import BlockEnd, Result, Update

from ..errors import APIError


@dataclass
class News:
    """What happened since the reader last looked; `tokens` [num_samples][seq_len] comes first, and alone."""

    tokens: list[list[int]] | None = None
    num_updates: int = 0
    step: int = 0
    t: float = 1.0
    nfe: int = 0
    changes: dict[tuple[int, int], int] = field(default_factory=dict)
    blocks: list[BlockEnd] = field(default_factory=list)
    result: Result | None = None
    error: APIError | None = None

    def merge(self, update: Update) -> None:
        """Add what `update` says; where both set a position, the update's token stays."""
        self.num_updates += 1
        self.step, self.t, self.nfe = update.step, update.t, update.nfe
        for sample, position, token in update.changes:
            self.changes[sample, position] = token
        self.blocks += update.blocks
        self.result = update.result


class Stream:
    """Written by the engine (`begin`, `publish`) or by anyone (`fail`), read by one coroutine (`read`).

    Args:
        stream_every: updates that make a state worth waking the reader; None wakes it for the end alone.

    outcome: once it has ended, "done" or the type of its error. num_merged: updates that found their reader late, with the
    one before still unread.
    """

    def __init__(self, stream_every: int | None = 1) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream_every = stream_every
        self._lock = threading.Lock()
        self._ready = asyncio.Event()
        self._woken = False
        self._closed = False
        self._begun: News | None = None
        self._news = News()
        self.arrived = time.perf_counter()
        self.queue_ms = self.first_state_ms = self.total_ms = 0.0
        self.outcome: str | None = None
        self.num_merged = 0

    def begin(self, tokens: list[list[int]]) -> None:
        """The rows have joined the batch; `tokens` [num_samples][seq_len] is their initial state."""
        with self._lock:
            self.queue_ms = self._elapsed_ms()
            self._begun = News(tokens=tokens)
            self._wake()

    def publish(self, update: Update) -> None:
        """One more update; after the end of the stream it is dropped."""
        with self._lock:
            if self._closed:
                return
            self.num_merged += self._woken and self._news.num_updates > 0
            self._news.merge(update)
            self.first_state_ms = self.first_state_ms or self._elapsed_ms()
            if update.result is not None:
                self._close("done")
            self._wake()

    def fail(self, error: APIError) -> None:
        """End the stream with `error`, unless it has ended already."""
        with self._lock:
            if self._closed:
                return
            self._news.error = error
            self._close(error.event.error.type)
            self._wake()

    async def read(self, timeout_s: float) -> News | None:
        """All news, once there are enough of them; None if there are not within `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            return None
        with self._lock:
            if self._begun is not None:
                news, self._begun = self._begun, None
            else:
                news, self._news = self._news, News()
            if not self._is_due():
                self._ready.clear()
                self._woken = False
        return news

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self.arrived) * 1e3

    def _close(self, outcome: str) -> None:
        self._closed = True
        self.outcome = outcome
        self.total_ms = self._elapsed_ms()

    def _is_due(self) -> bool:
        news = self._news
        if self._begun is not None or news.result is not None or news.error is not None:
            return True
        if self._stream_every is None:
            return False
        return news.num_updates >= self._stream_every or bool(news.blocks)

    def _wake(self) -> None:
        """Wake the reader if it has something to read and does not know yet. A loop that is closed has no reader."""
        if self._woken or not self._is_due():
            return
        self._woken = True
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ready.set)
