"""The engine without a server: the requests of the load generator, as many at once, driven straight through `Batch`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.engine.batch import Batch, next_turn
from token_diffusion.engine.shares import Shares
from token_diffusion.engine.standing import Share
from token_diffusion.samplers.parameters import SamplingParameters

from .load import Outcome, Plan
from .measure import Trace
from .traffic import Ask


def parameters_of(ask: Ask) -> SamplingParameters:
    """A request as a batch takes it."""
    names = ("seq_len", "num_samples", "num_inference_steps", "temperature", "top_p", "seed", "block_size")
    return SamplingParameters(**{name: ask.body[name] for name in names if name in ask.body})


def drive(checkpoints: Mapping[str, Checkpoint], plan: Plan, max_tokens: int | None = None) -> Outcome:
    """The closed loop of `plan` in this thread; what still runs at its end is left.

    A batch a checkpoint and their lanes in turn, as the server's engine does it; max_tokens: of a forward pass.
    """
    shares = Shares()
    batches = {
        name: Batch(each.denoiser, each.scheduler, device=each.device, max_tokens=max_tokens, shares=shares)
        for name, each in checkpoints.items()
    }
    asks = plan.asks()
    running: dict[int, tuple[Ask, Trace]] = {}
    traces: list[Trace] = []
    start, end = plan.window(time.perf_counter())
    while time.perf_counter() < end:
        _fill(batches, asks, running, traces, plan.closed)
        turn = next_turn(batches.values(), shares)
        if turn is None:
            break
        _step(*turn, running)
    return Outcome(traces, start, min(end, time.perf_counter()))


def _fill(
    batches: Mapping[str, Batch],
    asks: Iterator[Ask],
    running: dict[int, tuple[Ask, Trace]],
    traces: list[Trace],
    clients: int,
) -> None:
    """Clients whose request has ended send their next."""
    while len(running) < clients and (ask := next(asks, None)) is not None:
        trace, key = Trace(ask.label, ask.tokens, time.perf_counter()), len(traces)
        traces.append(trace)
        batches[ask.body["model"]].add(key, [-1] * ask.body["seq_len"], parameters_of(ask))
        running[key] = (ask, trace)


def _step(batch: Batch, turn: Share, running: dict[int, tuple[Ask, Trace]]) -> None:
    for update in batch.step(turn):
        assert isinstance(update.key, int)
        ask, trace = running[update.key]
        now = time.perf_counter()
        trace.states.append((now, min(1.0, update.step / ask.steps), update.nfe))
        if update.result is not None:
            trace.ended = now
            del running[update.key]
