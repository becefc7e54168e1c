"""Waits for the engine as a reader would, and says so when a step does not end, or when none succeeds any more."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import OPEN

from ..errors import APIError, stalled
from ..owners.owner import Owner
from .engine import Engine, jobs_of
from .jobs import Job
from .stream import Stream

log = logging.getLogger(__name__)

LEAST_S, SLOWEST = 60.0, 20
"""A step is given up after this many times the slowest one that was measured, but not before these seconds."""

FIRST_S = 600.0
"""Seconds that one of the first steps of its kind gets at least: it may have to compile, or to wait for a device."""

CHECK_S = 0.1
PROBE_S = 10.0
"""Seconds between two requests of our own, where steps have failed and nobody else asks for any."""

PROBE_TOKENS = 8


class Watchdog:
    """Looks at the engine now and then, from the event loop: the engine's thread may be the one that hangs.

    Args:
        stall_s: seconds after which a step is given up, whichever; None for a bound that follows from those measured.
    """

    def __init__(self, engine: Engine, stall_s: float | None = None) -> None:
        self._engine = engine
        self._stall_s = stall_s
        self._probe_due = 0.0

    @property
    def limit_s(self) -> float:
        """Seconds that the step which runs may take."""
        if self._stall_s is not None:
            return self._stall_s
        least = LEAST_S if self._engine.warm else FIRST_S
        return max(least, SLOWEST * self._engine.slowest_tick_s)

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.check()

    def check(self) -> None:
        """Gives up on a step that takes too long, takes that back if it ends after all, and probes a failing network."""
        engine, began, now = self._engine, self._engine.tick_began, time.monotonic()
        waited = 0.0 if began is None else now - began
        if waited > self.limit_s:
            if engine.stalled_s is None:
                self._give_up(waited)
            engine.stalled_s = waited
        elif engine.stalled_s is not None:
            log.warning("the step has ended after all")
            engine.stalled_s = None
        if engine.failing and engine.idle and now >= self._probe_due:
            self._probe_due = now + PROBE_S
            self._probe()

    def _give_up(self, waited: float) -> None:
        """Every stream ends with an error: who waits behind the step will not be served either."""
        batch = self._engine.stepping
        ids = ", ".join(job.id for job in jobs_of(batch)) if batch is not None else "none"
        log.critical("a step has not ended for %.1f s (limit %.1f s); its requests: %s", waited, self.limit_s, ids)
        self._engine.stalled_s = waited
        self._engine.abort(partial(stalled, waited))

    def _probe(self) -> None:
        """A short request to the network that failed last: a balancer that /ready keeps away would never send one."""
        checkpoint = self._engine.checkpoints[self._engine.failed or next(iter(self._engine.checkpoints))]
        room = PROBE_TOKENS if checkpoint.max_seq_len is None else min(PROBE_TOKENS, checkpoint.max_seq_len)
        frame = checkpoint.facts.frame
        tokens = frame.around([OPEN] * max(1, room - len(frame)))
        parameters = SamplingParameters(seq_len=len(tokens), num_inference_steps=1)
        try:
            self._engine.submit(
                Job(checkpoint.name, tokens, parameters, Stream(None), Owner("probe", "probe"), len(tokens))
            )
        except APIError as error:
            log.debug("no probe: %s", error.event.error.message)
