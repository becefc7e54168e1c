"""Requests by their id, for who comes back to one: those that run, and for a while those that nobody reads any more.

All of it is the event loop's; the engine knows nothing of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from token_diffusion.samplers.parameters import SamplingParameters

from ..errors import APIError, cancelled, crowded, not_found
from ..owners.owner import Owner
from .deadline import Deadline
from .engine import Engine
from .jobs import Job
from .stream import Place, Reader

MAX_READERS = 16
"""Of one request at a time: each is woken by the engine's thread."""

MAX_UNREAD_TOKENS = 2**18
"""Of all requests together that are kept without a reader; a token takes about a hundred bytes."""

SMALLEST_TOKENS = 32
"""What a request counts at least, as it takes memory however short it is."""


@dataclass(eq=False)
class Entry:
    """A request, and whether it outlives its last reader."""

    job: Job[SamplingParameters]
    keep: bool
    deadline: Deadline
    due: asyncio.TimerHandle
    unread: asyncio.TimerHandle | None = None

    @property
    def size(self) -> int:
        return max(self.job.parameters.num_samples * len(self.job.tokens), SMALLEST_TOKENS)


class Register:
    """Submits requests and ends them: when their time is over, when they are cancelled, when their last reader leaves.

    A request that is to be kept outlives its last reader for `reattach_s` seconds, whether it runs or has ended, and can
    be found as long. All that nobody reads, running or ended, holds at most `max_unread_tokens`: for more, the owner who
    keeps the most loses what it left first.
    """

    def __init__(self, engine: Engine, reattach_s: float, max_unread_tokens: int = MAX_UNREAD_TOKENS) -> None:
        self._engine = engine
        self._reattach_s, self._max_unread_tokens = reattach_s, max_unread_tokens
        self._entries: dict[str, Entry] = {}
        self._unread: dict[Entry, None] = {}
        self._unread_tokens: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def submit(self, job: Job[SamplingParameters], deadline: Deadline, *, keep: bool) -> Entry:
        """Hand `job` to the engine; it ends with an error when `deadline` is over.

        Raises:
            APIError: the engine does not take it.
        """
        self._engine.submit(job)

        def expire() -> None:
            self._stop(job, deadline.error())

        entry = Entry(job, keep, deadline, asyncio.get_running_loop().call_at(deadline.due, expire))
        self._entries[job.id] = entry
        return entry

    def find(self, id: str, owner: Owner) -> Entry:
        """Raises APIError, 404, for what is not here and for what is somebody else's: nobody learns which."""
        entry = self._entries.get(id)
        if entry is None or not _opens(owner, entry.job.owner):
            raise not_found("no request of this id: it never was, or is over and no longer kept")
        return entry

    def attach(self, entry: Entry, after: Place | None = None, *, end_alone: bool = False) -> Reader:
        """One more reader, to be given back by `detach`. Raises APIError, 429, if there are too many."""
        if entry.job.stream.num_readers >= MAX_READERS:
            raise crowded(MAX_READERS)
        self._is_read(entry)
        return entry.job.stream.attach(after, end_alone=end_alone)

    def detach(self, entry: Entry, reader: Reader) -> None:
        """It reads no more; the last one ends the request, unless that is to be kept."""
        entry.job.stream.detach(reader)
        if entry.job.stream.num_readers or entry.job.id not in self._entries:
            return
        if not entry.keep:
            return self.cancel(entry)
        entry.unread = asyncio.get_running_loop().call_later(self._reattach_s, self.cancel, entry)
        self._unread[entry] = None
        self._unread_tokens[entry.job.owner.id] += entry.size
        while self._unread_tokens.total() > self._max_unread_tokens:
            self._forget_one()

    def cancel(self, entry: Entry) -> None:
        """End it, if it still runs, and forget it."""
        self._is_read(entry)
        self._entries.pop(entry.job.id, None)
        entry.due.cancel()
        self._stop(entry.job, cancelled())

    def _stop(self, job: Job[SamplingParameters], error: APIError) -> None:
        job.stream.fail(error)
        self._engine.cancel(job)

    def _is_read(self, entry: Entry) -> None:
        """It counts no more among those that nobody reads."""
        if entry.unread is None:
            return
        entry.unread.cancel()
        entry.unread = None
        del self._unread[entry]
        self._unread_tokens -= Counter({entry.job.owner.id: entry.size})  # who has none left is in it no more

    def _forget_one(self) -> None:
        greediest, _ = max(self._unread_tokens.items(), key=lambda item: item[1])
        self.cancel(next(entry for entry in self._unread if entry.job.owner.id == greediest))


def _opens(owner: Owner, whose: Owner) -> bool:
    """Where there are keys, the owner's alone; else the id is the key, as a client may come back from another address."""
    return owner.id == whose.id or whose.id.startswith("address:")
