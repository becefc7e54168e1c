"""The engine without a server: the requests of the load generator, as many at once, driven straight through `Batch`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from token_diffusion.batch import Batch
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.parameters import SamplingParameters

from .load import Outcome, Plan
from .measure import Trace
from .traffic import Ask


def parameters_of(ask: Ask) -> SamplingParameters:
    """A request as a batch takes it."""
    names = ("seq_len", "num_samples", "num_inference_steps", "temperature", "top_p", "seed", "block_size")
    return SamplingParameters(**{name: ask.body[name] for name in names if name in ask.body})


def drive(checkpoints: Mapping[str, Checkpoint], plan: Plan) -> Outcome:
    """The closed loop of `plan` in this thread, a batch a checkpoint, stepped in turn; what still runs at its end is left."""
    batches = {
        name: Batch(checkpoint.denoiser, checkpoint.scheduler, device=checkpoint.device)
        for name, checkpoint in checkpoints.items()
    }
    asks = plan.asks()
    running: dict[str, dict[int, tuple[Ask, Trace]]] = {name: {} for name in checkpoints}
    traces: list[Trace] = []
    start, end = plan.window(time.perf_counter())
    while time.perf_counter() < end:
        _fill(batches, asks, running, traces, plan.closed)
        if not any(running.values()):
            break
        for name, batch in batches.items():
            if running[name]:
                _step(batch, running[name])
    return Outcome(traces, start, min(end, time.perf_counter()))


def _fill(
    batches: Mapping[str, Batch],
    asks: Iterator[Ask],
    running: Mapping[str, dict[int, tuple[Ask, Trace]]],
    traces: list[Trace],
    clients: int,
) -> None:
    """Clients whose request has ended send their next."""
    while sum(map(len, running.values())) < clients and (ask := next(asks, None)) is not None:
        trace = Trace(ask.label, ask.tokens, time.perf_counter())
        key, model = len(traces), ask.body["model"]
        traces.append(trace)
        batches[model].add(key, [-1] * ask.body["seq_len"], parameters_of(ask))
        running[model][key] = (ask, trace)


def _step(batch: Batch, running: dict[int, tuple[Ask, Trace]]) -> None:
    for update in batch.step():
        assert isinstance(update.key, int)
        ask, trace = running[update.key]
        now = time.perf_counter()
        trace.states.append((now, min(1.0, update.step / ask.steps), update.nfe))
        if update.result is not None:
            trace.ended = now
            del running[update.key]
