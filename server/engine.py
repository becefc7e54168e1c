"""One thread, which alone touches the models. Requests come in by `submit`, updates go out by a request's stream."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from token_diffusion.batch import Batch, Determinism, Update
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.lane import Lane, Turns
from token_diffusion.parameters import SamplingParameters

from .errors import APIError, internal, overloaded, unavailable
from .stream import Stream

log = logging.getLogger(__name__)

LONGEST_RETRY_S = 120


@dataclass(eq=False)
class Job:
    """An admitted request: `tokens` [seq_len] with OPEN holes, to be denoised by the checkpoint called `model`."""

    model: str
    tokens: list[int]
    parameters: SamplingParameters
    stream: Stream

    @property
    def rows(self) -> int:
        return self.parameters.num_samples


class Engine:
    """Drives one `Batch` a checkpoint; a tick is one step of one lane of one of them, taken in turn.

    A job is waiting (no rows are free for it), then joining (rows are reserved), then in its batch. What both sides see is
    guarded by `_changed`; the batches belong to the thread.

    Args:
        checkpoints: by name, the default one first.
        max_batch_rows: rows in all batches together. max_waiting: jobs that may wait for rows.
        max_batch_tokens: most tokens of a forward pass, hence the longest tick; None for no bound.
        determinism: "exact" keeps even the rounding of a request apart from its neighbours, at some cost.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        *,
        max_batch_rows: int,
        max_waiting: int,
        max_batch_tokens: int | None = None,
        determinism: Determinism = "fast",
    ) -> None:
        self.checkpoints = dict(checkpoints)
        self.max_batch_rows, self.max_batch_tokens = max_batch_rows, max_batch_tokens
        self.max_waiting = max_waiting
        self.determinism = determinism
        self.draining = False
        self._stopping = False
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._joining: deque[Job] = deque()
        self._leaving: list[Job] = []
        self._reserved: set[Job] = set()
        self._ends: deque[float] = deque(maxlen=32)
        self._turns = Turns()
        self._batches = {name: self._new_batch(checkpoint) for name, checkpoint in self.checkpoints.items()}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # What the event loop calls; only `stop` waits for a step.

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step it is in; jobs that are left end with an internal error."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def rows(self) -> int:
        """Rows that are denoised now, or reserved for jobs about to join."""
        with self._changed:
            return sum(job.rows for job in self._reserved)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        with self._changed:
            return not (self._reserved or self._waiting)

    def check_open(self) -> None:
        """Raises APIError, 503, if new jobs are not taken."""
        if self.draining:
            raise unavailable("the server is stopping")
        if self._stopping or not self.alive:
            raise unavailable("the engine is not running")

    def submit(self, job: Job) -> None:
        """Take `job`, to be started as soon as there are rows for it, first come first served.

        Raises:
            APIError: 429 when too many wait already, 503 when the engine is draining or dead.
        """
        with self._changed:
            self.check_open()
            if self.idle:
                self._ends.clear()
                self._ends.append(time.monotonic())
            if len(self._waiting) >= self.max_waiting and not self._is_next(job):
                raise overloaded(self._retry_after_s())
            self._waiting.append(job)
            self._reserve()

    def cancel(self, job: Job) -> None:
        """Take the rows of `job` out of the batch before its next step; a job that has ended is ignored."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._reserve()
            elif job in self._joining:
                self._joining.remove(job)
                self._free(job)
            elif job in self._reserved:
                self._leaving.append(job)
                self._changed.notify()

    def drain(self) -> None:
        """Take no more jobs; those that run or wait go on."""
        self.draining = True

    def abort(self, reason: Callable[[], APIError]) -> None:
        """End every job with an error."""
        with self._changed:
            jobs = [*self._waiting, *self._reserved]
        for job in jobs:
            job.stream.fail(reason())
            self.cancel(job)

    # Bookkeeping of rows, under the lock.

    def _is_next(self, job: Job) -> bool:
        return not self._waiting and self._fits(job)

    def _fits(self, job: Job) -> bool:
        return self.rows + job.rows <= self.max_batch_rows

    def _reserve(self) -> None:
        """Give the rows that are free to those who wait, in their order."""
        while self._waiting and self._fits(self._waiting[0]):
            job = self._waiting.popleft()
            self._reserved.add(job)
            self._joining.append(job)
            self._changed.notify()

    def _free(self, job: Job) -> None:
        with self._changed:
            if job in self._reserved:
                self._reserved.discard(job)
                self._ends.append(time.monotonic())
                self._reserve()

    def _retry_after_s(self) -> int:
        """Seconds until those who wait now will have been started, at the rate at which jobs lately ended."""
        elapsed = time.monotonic() - self._ends[0]
        num_ended = max(1, len(self._ends) - 1)
        return max(1, min(LONGEST_RETRY_S, math.ceil((len(self._waiting) + 1) * elapsed / num_ended)))

    # The thread.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._exchange()
                self._tick()
        except Exception:
            log.exception("the engine has died")
        finally:
            self._stopping = True
            self.abort(internal)

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do. False once it is time to stop."""
        with self._changed:
            while not (self._stopping or self._joining or self._leaving or any(map(len, self._batches.values()))):
                self._changed.wait()
            return not self._stopping

    def _exchange(self) -> None:
        """Let the jobs that were cancelled leave, and those that have got rows join."""
        with self._changed:
            leaving, self._leaving = self._leaving, []
            joining, self._joining = self._joining, deque()
        for job in leaving:
            self._leave(job)
        for job in joining:
            self._join(job)

    def _join(self, job: Job) -> None:
        batch = self._batches[job.model]
        try:
            job.stream.begin(batch.add(job, job.tokens, job.parameters))
        except Exception:
            log.exception("a request to %s could not join", job.model)
            self._leave(job, internal())
        self._publish(batch.complete())

    def _tick(self) -> None:
        """One step of the lane whose turn it is."""
        owners = {lane: batch for batch in self._batches.values() for lane in batch.lanes}
        if owners:
            lane = self._turns.next(list(owners))
            self._step(owners[lane], lane)

    def _step(self, batch: Batch, lane: Lane) -> None:
        """If it fails, the jobs of this lane fail, and no others."""
        try:
            updates = batch.step(lane)
        except Exception:
            log.exception("a step failed")
            for job in {member.request.key for member in lane.members}:
                assert isinstance(job, Job)
                self._leave(job, internal())
            return
        self._publish(updates)

    def _publish(self, updates: Sequence[Update]) -> None:
        for update in updates:
            assert isinstance(update.key, Job)
            if update.error is not None:
                log.error("a request to %s failed: %s", update.key.model, update.error)
                self._leave(update.key, internal())
                continue
            if update.result is not None:
                self._free(update.key)
            update.key.stream.publish(update)

    def _leave(self, job: Job, error: APIError | None = None) -> None:
        """Out of its batch, its rows free for others; its stream ends with `error` if there is one."""
        self._batches[job.model].remove(job)
        self._free(job)
        if error is not None:
            job.stream.fail(error)

    def _new_batch(self, checkpoint: Checkpoint) -> Batch:
        return Batch(
            checkpoint.denoiser,
            checkpoint.scheduler,
            device=checkpoint.device,
            max_tokens=self.max_batch_tokens,
            determinism=self.determinism,
            turns=self._turns,
        )
