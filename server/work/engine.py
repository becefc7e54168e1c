"""One thread, which alone touches the models. Requests come in by `submit`, updates go out by a request's stream."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.engine.batch import Batch, Determinism, Update, next_turn
from token_diffusion.engine.lane import Lane, Turns

from ..errors import APIError, internal, unavailable
from .jobs import Job, Jobs
from .memory import Trimmer
from .spinning import Spinning

log = logging.getLogger(__name__)


class Engine:
    """Drives one `Batch` a checkpoint; a tick is one step of one lane of one of them, taken in turn.

    Args:
        checkpoints: by name, the default one first.
        max_batch_rows: rows in all batches together. max_waiting: jobs that may wait for rows.
        max_batch_tokens: most tokens of a forward pass, hence the longest tick; None for no bound.
        determinism: "exact" keeps even the rounding of a request apart from its neighbours, at some cost.

    `ticks` counts the steps since the start.
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
        self.max_batch_tokens, self.determinism = max_batch_tokens, determinism
        self.jobs = Jobs(max_batch_rows, max_waiting)
        self.draining = False
        self.ticks = 0
        self._turns = Turns()
        self._batches = {name: self._new_batch(checkpoint) for name, checkpoint in self.checkpoints.items()}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # What the event loop calls; only `stop` waits for a step.

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step it is in; jobs that are left end with an internal error."""
        self.jobs.close()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def idle(self) -> bool:
        return not self.jobs.all

    def check_open(self) -> None:
        """Raises APIError, 503, if new jobs are not taken."""
        if self.draining:
            raise unavailable("the server is stopping")
        if self.jobs.closed or not self.alive:
            raise unavailable("the engine is not running")

    def submit(self, job: Job) -> None:
        """Take `job`, to be started as soon as there are rows for it, first come first served.

        Raises:
            APIError: 429 when too many wait already, 503 when the engine is draining or dead.
        """
        self.check_open()
        self.jobs.submit(job)
        if self.jobs.closed:  # it died in between, and may not have seen this job
            self.abort(internal)

    def cancel(self, job: Job) -> None:
        """Take the rows of `job` out of the batch before its next step; a job that has ended is ignored."""
        self.jobs.cancel(job)

    def drain(self) -> None:
        """Take no more jobs; those that run or wait go on."""
        self.draining = True

    def abort(self, reason: Callable[[], APIError]) -> None:
        """End every job with an error."""
        for job in self.jobs.all:
            job.stream.fail(reason())
            self.cancel(job)

    # The thread.

    def _run(self) -> None:
        trim, spinning = Trimmer(), Spinning()
        try:
            while self.jobs.wait(busy=any(map(len, self._batches.values()))):
                self._exchange()
                self._tick()
                trim()
                spinning()
        except Exception:
            log.exception("the engine has died")
        finally:
            spinning.stop()
            self.jobs.close()
            self.abort(internal)

    def _exchange(self) -> None:
        """Let the jobs that were cancelled leave, and those that have got rows join."""
        leaving, joining = self.jobs.exchange()
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
        turn = next_turn(self._batches.values(), self._turns)
        if turn is not None:
            self.ticks += 1
            self._step(*turn)

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
            job = update.key
            assert isinstance(job, Job)
            if update.error is not None:
                log.error("a request to %s failed: %s", job.model, update.error)
                self._leave(job, internal())
                continue
            if update.result is not None:
                self.jobs.free(job)
            job.stream.publish(update)

    def _leave(self, job: Job, error: APIError | None = None) -> None:
        """Out of its batch, its rows free for others; its stream ends with `error` if there is one."""
        self._batches[job.model].remove(job)
        self.jobs.free(job)
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
