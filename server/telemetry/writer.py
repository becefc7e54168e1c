"""The thread that writes the log, so that nobody who logs waits for whoever reads it."""

from __future__ import annotations

import logging
import os
import queue
import threading

WAITING = 4096
"""Messages that may wait to be written; those beyond are lost."""

AT_ONCE = 64
"""Messages in one go, at most."""

FLUSH_S = 0.5
"""Seconds that the end of the process waits for what is not written yet."""


class Writer(logging.Handler):
    """Writes to a file descriptor. Messages are lost, and counted, while it takes none: a pipe that is full, a full disk.

    Without this a pipe that nobody reads stops the event loop at its next message, and the end of the process too.

    Args:
        descriptor: written to as it is: a thread that hangs in a write holds no lock that the interpreter's end needs.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._waiting: queue.Queue[str] = queue.Queue(WAITING)
        self._refused = self._failed = self._told = 0
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait(self.format(record))  # formatted here, where its request is known
        except queue.Full:
            self._refused += 1
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait for what is on its way, but not for ever."""
        with self._waiting.all_tasks_done:
            self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, FLUSH_S)

    def _write_all(self) -> None:
        while True:
            messages = [self._waiting.get()]
            while len(messages) < AT_ONCE and not self._waiting.empty():
                messages.append(self._waiting.get())
            self._write(messages)
            for _ in messages:
                self._waiting.task_done()

    def _write(self, messages: list[str]) -> None:
        lost = self._refused + self._failed - self._told
        try:
            _write(self._descriptor, messages)
            if lost:
                _write(self._descriptor, [self.format(_loss(lost))])
                self._told += lost
        except OSError:
            self._failed += len(messages)


def _write(descriptor: int, messages: list[str]) -> None:
    left = "".join(f"{message}\n" for message in messages).encode("utf-8", "backslashreplace")
    while left:
        left = left[os.write(descriptor, left) :]


def _loss(lost: int) -> logging.LogRecord:
    message = f"{lost} messages were lost, as they could not be written"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, None, None)
