"""One thread, which alone touches the models. Requests come in by `submit`, updates go out by a request's stream."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.engine.batch import Batch, Determinism, Result, Scores, Update, next_turn
from token_diffusion.engine.shares import Shares
from token_diffusion.engine.standing import Share

from ..errors import APIError, internal, stalled, unavailable
from ..owners.owner import Owner
from ..telemetry.metrics import Metrics
from .jobs import Job, Jobs
from .memory import Trimmer
from .rate import Rate
from .room import Bounds, Room
from .spinning import Spinning

log = logging.getLogger(__name__)

PRIOR_PER_S = {"cpu": 20_000.0}
"""Token passes a second until they are measured; rather too few."""
ACCELERATOR_PER_S = 500_000.0

WARM_UP = 3
"""Steps of one checkpoint and class of lengths after which it is known how long they take."""

FAILING = 3
"""Failed steps in a row that are no accident any more."""


class Engine:
    """Drives one `Batch` a checkpoint; a tick is one step of some rows of one of them, by the shares of their owners.

    Args:
        checkpoints: by name, the default one first.
        bounds: how much may be outstanding.
        max_batch_tokens: most tokens of a forward pass, hence the longest tick; None for no bound.
        determinism: "exact" keeps even the rounding of a request apart from its neighbours, at some cost.

    `ticks` counts the steps since the start, `rate` is what they get done; `failures` those that failed since one succeeded, the
    last with the checkpoint called `failed`. `tick_began` is when (monotonic) the step that runs did, `stepping` its batch, None
    between two; it is `warm` unless it is one of the first of its kind, which may have to compile. `last_tick_s` is how long the
    last one took, `slowest_tick_s` the slowest warm one. `stalled_s` is for whoever gives up on a step: for how long it has run.
    `metrics` is where they are counted, too; an app puts its own there before it starts the engine.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        *,
        bounds: Bounds | None = None,
        max_batch_tokens: int | None = None,
        determinism: Determinism = "fast",
    ) -> None:
        self.checkpoints = dict(checkpoints)
        self.max_batch_tokens, self.determinism = max_batch_tokens, determinism
        self.rate = Rate(_prior(next(iter(self.checkpoints.values()))))
        self._rates = {name: Rate(_prior(checkpoint)) for name, checkpoint in self.checkpoints.items()}
        self.jobs = Jobs(Room(bounds or Bounds(), self._rates))
        self.metrics = Metrics()
        self.draining = False
        self.ticks = self.failures = 0
        self.tick_began: float | None = None
        self.stepping: Batch | None = None
        self.warm = False
        self.last_tick_s = self.slowest_tick_s = 0.0
        self.stalled_s: float | None = None
        self.failed: str | None = None
        self._kinds: Counter[tuple[int, int]] = Counter()
        self._shares = Shares()
        self._batches = {name: self._new_batch(checkpoint) for name, checkpoint in self.checkpoints.items()}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # What the event loop calls; only `stop` waits for a step.

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> None:
        """End the thread after the step it is in, and wait for that, but no longer than `timeout_s`; jobs that are left end
        with an internal error.
        """
        self.jobs.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def idle(self) -> bool:
        return not self.jobs.all

    @property
    def started(self) -> bool:
        return self._thread.ident is not None

    @property
    def failing(self) -> bool:
        """Whether no step has succeeded lately."""
        return self.failures >= FAILING

    def check_ready(self) -> None:
        """Raises APIError, 503, if new jobs had better go elsewhere; they are taken all the same while it is `failing`."""
        self.check_open()
        if self.failing:
            raise unavailable(f"the last {self.failures} steps have failed")

    def check_open(self) -> None:
        """Raises APIError, 503, if new jobs are not taken."""
        if self.draining:
            raise unavailable("the server is stopping")
        self.check_alive()

    def check_alive(self) -> None:
        """Raises APIError, 503, if the engine has ended, or does not come back from a step."""
        if self.jobs.closed or not self.alive:
            raise unavailable("the engine is not running")
        if self.stalled_s is not None:
            raise stalled(self.stalled_s)

    def check_room(self, owner: Owner) -> None:
        """Raises APIError, 429 or 503, if no job of `owner` would be taken now, however small."""
        self.check_open()
        self.jobs.check_room(owner)

    def submit(self, *jobs: Job[Any]) -> None:
        """Take `jobs`, all of one owner, to be begun with the next steps; all of them or none.

        Raises:
            APIError: 429 when too much is outstanding already, 503 when the engine is draining or dead.
        """
        self.check_open()
        self.jobs.submit(*jobs)
        if self.jobs.closed:  # it died in between, and may not have seen them
            self.abort(internal)

    def cancel(self, job: Job[Any]) -> None:
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
        except BaseException:  # a SystemExit, too, must not pass in silence
            log.critical("the engine has died", exc_info=True)
        finally:
            spinning.stop()
            self.jobs.close()
            self.abort(internal)

    def _exchange(self) -> None:
        """Let the jobs that were cancelled leave, and those that were admitted join."""
        leaving, joining = self.jobs.exchange()
        for job in leaving:
            self._leave(job)
        for job in joining:
            self._join(job)

    def _join(self, job: Job[Any]) -> None:
        batch = self._batches[job.model]
        try:
            job.stream.begin(batch.add(job, job.tokens, job.parameters, job.owner.id, job.owner.weight))
        except Exception:
            log.exception("%s could not join", job)
            self._leave(job, internal())
        self._publish(batch.complete())

    def _tick(self) -> None:
        """One step of the job whose turn it is, and of those that join its forward pass."""
        turn = next_turn(self._batches.values(), self._shares)
        if turn is not None:
            self.ticks += 1
            batch, share = turn
            kind = (id(batch), batch.lane_of(share).bucket)
            self._kinds[kind] += 1
            self.warm, self.stepping = self._kinds[kind] > WARM_UP, batch
            began = self.tick_began = time.monotonic()
            self._step(batch, share)
            self.tick_began = self.stepping = None
            self.last_tick_s = time.monotonic() - began
            if self.warm:
                self.slowest_tick_s = max(self.slowest_tick_s, self.last_tick_s)

    def _step(self, batch: Batch, turn: Share) -> None:
        """If it fails, the jobs in it fail, and no others."""
        began = time.perf_counter()
        try:
            updates = batch.step(turn)
        except Exception:
            failed = jobs_of(batch)
            log.exception("a step failed, and with it %s", ", ".join(map(str, failed)))
            self.metrics.step_failed()
            self.failures += 1
            for job in failed:
                self.failed = job.model
                self._leave(job, internal())
            return
        self.failures = self.failures + 1 if updates and all(map(_is_error, updates)) else 0
        self._account(batch, updates, began)
        self._publish(updates)

    def _account(self, batch: Batch, updates: Sequence[Update], began: float) -> None:
        """What the step took, and what it got done."""
        seconds = time.perf_counter() - began
        self.metrics.step(seconds, batch.rows, batch.tokens)
        batch.cost.observe(batch.tokens, seconds)
        jobs = [cast(Job[Any], update.key) for update in updates]
        for job in jobs:
            if not job.running:
                job.running, job.stream.queue_ms = True, (began - job.stream.arrived) * 1e3
                self.metrics.begun(job.model, job.stream.queue_ms)
        left = ((job, update.left) for job, update in zip(jobs, updates, strict=True) if update.error is None)
        retired = self.jobs.retire(left)  # what a job that failed would have needed was not done
        for rate in (self.rate, self._rates[jobs[0].model]):
            rate.observe(retired, seconds)

    def _publish(self, updates: Sequence[Update]) -> None:
        for update in updates:
            job = update.key
            assert isinstance(job, Job)
            if update.error is not None:
                log.error("%s failed: %s", job, update.error)
                self.failed = job.model
                self.metrics.step_failed()
                self._leave(job, internal())
                continue
            if update.result is not None:
                self.jobs.free(job)
            is_first = not job.stream.first_state_ms
            job.stream.publish(update)
            if is_first:
                self.metrics.first_state(job.model, job.stream.first_state_ms)
            if update.result is not None:
                self._count(job, update.result)

    def _count(self, job: Job[Any], result: Result) -> None:
        tokens = 0 if isinstance(result, Scores) else result.completion_tokens  # of these none was made
        name, total_ms = job.owner.key_name, job.stream.total_ms
        self.metrics.finished(job.model, name, total_ms, tokens, result.nfe, result.forwards_skipped)

    def _leave(self, job: Job[Any], error: APIError | None = None) -> None:
        """Out of its batch, what it held free for others; its stream ends with `error` if there is one."""
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
            shares=self._shares,
        )


def jobs_of(batch: Batch) -> list[Job[Any]]:
    """Those in its step, the last one or the one under way."""
    return [job for job in batch.stepped if isinstance(job, Job)]


def _is_error(update: Update) -> bool:
    return update.error is not None


def _prior(checkpoint: Checkpoint) -> float:
    return PRIOR_PER_S.get(checkpoint.device.partition(":")[0], ACCELERATOR_PER_S)
