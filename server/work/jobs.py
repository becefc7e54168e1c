"""Jobs from their admission to their end: who joins, who has to leave; what the event loop and the engine's thread share."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from ..owners.owner import Owner
from ..owners.quotas import Quotas
from .room import Room
from .stream import Stream

LEAST_TOKENS = 256
"""Positions that a job counts at least, as it is more than its rows."""


def new_id(instance: str = "") -> str:
    """An id that nobody can guess; with `instance`, which server gave it is told by its second part."""
    return "-".join(part for part in ("smp", instance, secrets.token_urlsafe(16)) if part)


class Parameters(Protocol):
    """What a job asks of its rows, of which there are `num_samples`."""

    @property
    def num_samples(self) -> int: ...


P = TypeVar("P", bound=Parameters)


@dataclass(eq=False)
class Job(Generic[P]):
    """An admitted request: rows of `tokens` [seq_len], each as `parameters` say, for the checkpoint called `model`.

    id: the server's own name for it, which nobody can guess. request_id: its client's, X-Request-Id. work: its price in token
    passes. left: what it may still need of it. running: it has had a step.
    """

    model: str
    tokens: list[int]
    parameters: P
    stream: Stream
    owner: Owner
    work: int
    id: str = field(default_factory=new_id)
    request_id: str = ""
    running: bool = False

    def __post_init__(self) -> None:
        self.left = self.work

    def __str__(self) -> str:
        return f"{self.id} (request {self.request_id}, to {self.model})"

    @property
    def rows(self) -> int:
        return self.parameters.num_samples

    @property
    def resident_tokens(self) -> int:
        return max(LEAST_TOKENS, self.rows * len(self.tokens))


class Jobs:
    """A job is joining once it is admitted, then in its batch until it is freed.

    Every method may be called from any thread; `wait`, `exchange` and `retire` are for the engine's.

    Args:
        room: for outstanding work; in here it is used under one lock.
    """

    def __init__(self, room: Room) -> None:
        self._quotas = Quotas()
        self._room = room
        self._closed = False
        self._changed = threading.Condition()
        self._joining: list[Job[Any]] = []
        self._leaving: list[Job[Any]] = []
        self._jobs: dict[Job[Any], None] = {}
        self._held: set[Job[Any]] = set()  # those that the room counts

    @property
    def rows(self) -> int:
        """Rows of all jobs."""
        return sum(job.rows for job in self.all)

    @property
    def num_running(self) -> int:
        """Jobs that have had a step."""
        return sum(job.running for job in self.all)

    @property
    def num_waiting(self) -> int:
        """Jobs that have had none."""
        return sum(not job.running for job in self.all)

    @property
    def work(self) -> int:
        """Token passes that all jobs together may still need."""
        with self._changed:
            return self._room.work

    @property
    def all(self) -> list[Job[Any]]:
        with self._changed:
            return list(self._jobs)

    def check_room(self, owner: Owner) -> None:
        """Raises APIError, 429, if no job of `owner` would be admitted now, however small."""
        with self._changed:
            self._room.check(owner, {}, 0)

    def submit(self, *jobs: Job[Any]) -> None:
        """They join before the next step, all of them or none; of the event loop.

        Args:
            jobs: of one owner; what they ask for together is held against what there is.

        Raises:
            APIError: 429, if too much is outstanding already, or their owner has used up its rate.
        """
        work: Counter[str] = Counter()
        for job in jobs:
            work[job.model] += job.work
        with self._changed:
            owner = jobs[0].owner
            self._room.check(owner, work, sum(job.resident_tokens for job in jobs))
            self._quotas.take(owner, work.total())
            for job in jobs:
                self._room.add(owner, job.model, job.left, job.resident_tokens)
                self._jobs[job] = None
                self._held.add(job)
                self._joining.append(job)
            self._changed.notify()

    def cancel(self, job: Job[Any]) -> None:
        """It does not join, or leaves its batch before the next step; a job that has ended is ignored.

        What it held is for others at once: its client may come again before the step under way has ended.
        """
        with self._changed:
            if job in self._joining:
                self._joining.remove(job)
                self.free(job)
            elif job in self._jobs:
                self._release(job)
                self._leaving.append(job)
                self._changed.notify()

    def retire(self, done: Iterable[tuple[Job[Any], int]]) -> int:
        """Of these jobs so much is left. Returns by how much that is less."""
        retired = 0
        with self._changed:
            for job, left in done:
                if job in self._held:
                    self._room.add(job.owner, job.model, left - job.left, 0)
                retired += job.left - left
                job.left = left
        return retired

    def free(self, job: Job[Any]) -> None:
        """What it held is for others; a job that holds nothing is ignored."""
        with self._changed:
            if job in self._jobs:
                del self._jobs[job]
                self._release(job)

    def _release(self, job: Job[Any]) -> None:
        if job in self._held:
            self._held.remove(job)
            self._room.add(job.owner, job.model, -job.left, -job.resident_tokens)

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

    def exchange(self) -> tuple[list[Job[Any]], list[Job[Any]]]:
        """Those that leave their batch and those that join one, each told once."""
        with self._changed:
            leaving, self._leaving = self._leaving, []
            joining, self._joining = self._joining, []
        return leaving, joining
