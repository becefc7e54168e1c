"""The thread that works with text: tokenizers are not made for several at a time, and must not hold up the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from ..owners.owner import Owner
from ..telemetry.metrics import Metrics

T = TypeVar("T")

URGENT_IN_A_ROW = 8
"""Pieces of running requests that may go before somebody who waits to be admitted."""


class TextThread:
    """Does pieces of work one at a time, in an order that no client can turn to its own good.

    What a running request needs (no owner) goes first; then the owners take turns, a piece each. So another client's hundred
    long texts are one long text ahead of a short one. `metrics` are told how long a piece took.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(1, "text")
        self._lock = threading.Lock()
        self._urgent: deque[_Piece] = deque()
        self._waiting: dict[str, deque[_Piece]] = {}
        self._in_a_row = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    async def run(self, work: Callable[[], T], owner: Owner | None = None) -> T:
        """The result of `work`. Whoever stops waiting for it takes it out of the line, unless it has begun."""
        piece = _Piece(work)
        with self._lock:
            line = self._urgent if owner is None else self._waiting.setdefault(owner.id, deque())
            line.append(piece)
        self._pool.submit(self._do_next)
        result: T = await asyncio.wrap_future(piece.future)
        return result

    def _do_next(self) -> None:
        """One piece: as many calls as pieces, and which is whose is decided now."""
        with self._lock:
            piece = self._next()
        began = time.perf_counter()
        piece.do()
        self._metrics.text(time.perf_counter() - began)

    def _next(self) -> _Piece:
        if self._urgent and (self._in_a_row < URGENT_IN_A_ROW or not self._waiting):
            self._in_a_row += 1
            return self._urgent.popleft()
        self._in_a_row = 0
        owner = next(iter(self._waiting))
        line = self._waiting.pop(owner)
        piece = line.popleft()
        if line:
            self._waiting[owner] = line  # behind the others
        return piece


class _Piece:
    def __init__(self, work: Callable[[], Any]) -> None:
        self.work, self.future = work, Future[Any]()

    def do(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.work()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)
