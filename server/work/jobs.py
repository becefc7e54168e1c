"""Jobs on their way to rows: who waits, who may join, who has to leave; what the event loop and the engine's thread share."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from token_diffusion.samplers.parameters import SamplingParameters

from ..errors import overloaded
from .owner import Owner
from .stream import Stream

LONGEST_RETRY_S = 120


def new_id(instance: str = "") -> str:
    """An id that nobody can guess; with `instance`, which server gave it is told by its second part."""
    return "-".join(part for part in ("smp", instance, secrets.token_urlsafe(16)) if part)


@dataclass(eq=False)
class Job:
    """An admitted request: `tokens` [seq_len] with OPEN holes, to be denoised by the checkpoint called `model`.

    id: the server's own name for it, which nobody can guess. request_id: its client's, X-Request-Id.
    work: its price, tokens x forward passes that it may need.
    """

    model: str
    tokens: list[int]
    parameters: SamplingParameters
    stream: Stream
    owner: Owner
    id: str = field(default_factory=new_id)
    request_id: str = ""
    work: int = 0

    def __str__(self) -> str:
        return f"{self.id} (request {self.request_id}, to {self.model})"

    @property
    def rows(self) -> int:
        return self.parameters.num_samples


class Jobs:
    """A job is waiting (no rows are free for it), then joining (rows are reserved), then in its batch until it is freed.

    Every method may be called from any thread; `wait` and `exchange` are for the engine's.

    Args:
        max_rows: rows reserved at a time. max_waiting: jobs that may wait for rows.
    """

    def __init__(self, max_rows: int, max_waiting: int) -> None:
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self._closed = False
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._joining: list[Job] = []
        self._leaving: list[Job] = []
        self._reserved: set[Job] = set()
        self._ends: deque[float] = deque(maxlen=32)

    @property
    def rows(self) -> int:
        """Rows that are denoised now, or reserved for jobs about to join."""
        with self._changed:
            return sum(job.rows for job in self._reserved)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def all(self) -> list[Job]:
        """Those that wait, and those that have rows."""
        with self._changed:
            return [*self._waiting, *self._reserved]

    def submit(self, job: Job) -> None:
        """First come, first served. Raises APIError, 429, when too many wait already."""
        with self._changed:
            if not self.all:
                self._ends.clear()
                self._ends.append(time.monotonic())
            if len(self._waiting) >= self.max_waiting and (self._waiting or not self._fits(job)):
                raise overloaded(self._retry_after_s())
            self._waiting.append(job)
            self._reserve()

    def cancel(self, job: Job) -> None:
        """It waits no more, or leaves its batch before the next step; a job that has ended is ignored."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._reserve()
            elif job in self._joining:
                self._joining.remove(job)
                self.free(job)
            elif job in self._reserved:
                self._leaving.append(job)
                self._changed.notify()

    def free(self, job: Job) -> None:
        """Its rows are for others; a job that has none is ignored."""
        with self._changed:
            if job in self._reserved:
                self._reserved.discard(job)
                self._ends.append(time.monotonic())
                self._reserve()

    def close(self) -> None:
        """Ends the waiting of the engine's thread, for good."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def closed(self) -> bool:
        return self._closed

    def wait(self, busy: bool) -> bool:
        """Sleeps until somebody joins or leaves, not at all if the engine is `busy`. False once closed."""
        with self._changed:
            while not (busy or self._closed or self._joining or self._leaving):
                self._changed.wait()
            return not self._closed

    def exchange(self) -> tuple[list[Job], list[Job]]:
        """Those that leave their batch and those that join one, each told once."""
        with self._changed:
            leaving, self._leaving = self._leaving, []
            joining, self._joining = self._joining, []
        return leaving, joining

    def _fits(self, job: Job) -> bool:
        return self.rows + job.rows <= self.max_rows

    def _reserve(self) -> None:
        """Give the rows that are free to those who wait, in their order."""
        while self._waiting and self._fits(self._waiting[0]):
            job = self._waiting.popleft()
            self._reserved.add(job)
            self._joining.append(job)
            self._changed.notify()

    def _retry_after_s(self) -> int:
        """Seconds until those who wait now will have been started, at the rate at which jobs lately ended."""
        elapsed = time.monotonic() - self._ends[0]
        num_ended = max(1, len(self._ends) - 1)
        return max(1, min(LONGEST_RETRY_S, math.ceil((len(self._waiting) + 1) * elapsed / num_ended)))
