"""How the server ends: it drains while it still answers, and only then lets uvicorn close."""

from __future__ import annotations

import os
import time
from types import FrameType

import uvicorn

from .errors import shutdown
from .work.engine import Engine

CLOSE_S = 5
"""Seconds that connections may take to close once every request has ended."""


class DrainingServer(uvicorn.Server):
    """A first SIGTERM or SIGINT drains, a second one ends the process at once.

    While draining, /ready and new work are answered 503, and what runs goes on for `grace_s` seconds; what is left
    then ends with an error of type shutdown. The process exits with code 0.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, grace_s: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._grace_s = grace_s
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A signal interrupts the event loop anywhere, so that it must not take a lock: on_tick does the work.
        if self._deadline is not None:
            os._exit(128 + sig)
        self._deadline = time.monotonic() + self._grace_s

    async def on_tick(self, counter: int) -> bool:
        if self._deadline is not None:
            self._drain(self._deadline)
        return await super().on_tick(counter)

    def _drain(self, deadline: float) -> None:
        self._engine.drain()
        if time.monotonic() >= deadline:
            self._engine.abort(shutdown)
            self.should_exit = True
        elif self._engine.idle:
            self.should_exit = True
