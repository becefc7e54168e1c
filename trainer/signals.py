"""SIGTERM and SIGINT as a wish: stop after the current step, with a checkpoint, or at once where one is there already."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered, the first of the signals is only noted in `received`; a second one acts as it always does."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at_once = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there alone
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In here the first signal raises `KeyboardInterrupt`, and so does one that came before and was not yet obeyed."""
        self._at_once = True
        try:
            if self.received is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__(None, None, None)
        if self._at_once:
            raise KeyboardInterrupt
        logger.warning("%s: saving a checkpoint after this step; again to stop at once", self.received.name)


def ignore_stop_signals(worker_id: int = 0) -> None:
    """For workers of a data loader: a signal to the whole process group must not take the data from the last step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
