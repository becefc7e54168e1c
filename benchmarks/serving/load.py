"""The load generator: a process of its own that sends requests to a server and notes when each event came.

    python -m benchmarks.serving.load < plan.json > traces.json

Events are parsed no further than the figures need (`clients` would check every field of every change), because what the
generator computes is taken from the server's cores. For the same reason it does without torch.
"""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice

import httpx2

from .. import ROOT
from ..figures import poisson_times
from .measure import Summary, Trace, summarise
from .traffic import LONG, SHORT, Ask, endless, mixed

MAX_EVENT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Plan:
    """What to send, to whom, for how long. Seconds.

    models: endpoint -> model. closed: clients that each send their next request when the last one has ended.
    requests: with it, the closed loop ends with so many, each done, and the window is all of it.
    rate: arrivals a second of an open loop instead. long: clients that only send long requests, beside one that
    sends a short one now and then. warmup: before the window that counts. drain: how long requests may go on after it.
    """

    url: str
    models: dict[str, str]
    seconds: float
    closed: int = 0
    requests: int = 0
    rate: float = 0.0
    long: int = 0
    warmup: float = 3.0
    drain: float = 30.0
    seed: int = 0
    limits: dict[str, int] = field(default_factory=dict)
    """`most_tokens` and `most_steps` of the mixed requests"""

    def asks(self) -> Iterator[Ask]:
        """The mixed requests, as many as there are to be."""
        return islice(mixed(self.models, self.seed, **self.limits), self.requests or None)

    def window(self, now: float) -> tuple[float, float]:
        """Start and end of what counts; without an end where the number of requests decides."""
        if self.requests:
            return now, math.inf
        return now + self.warmup, now + self.warmup + self.seconds


@dataclass(frozen=True)
class Outcome:
    """All traces, and the window that counts, on one clock."""

    traces: list[Trace]
    start: float
    end: float

    @property
    def summary(self) -> Summary:
        return summarise(self.traces, self.start, self.end)


def generate(plan: Plan) -> Outcome:
    """Runs the plan in a process of its own. Raises RuntimeError if that fails."""
    command = [sys.executable, "-m", "benchmarks.serving.load"]
    done = subprocess.run(command, input=json.dumps(asdict(plan)), capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip()[-2000:]}")
    found = json.loads(done.stdout)
    return Outcome([Trace(**trace) for trace in found.pop("traces")], **found)


async def ask_server(client: httpx2.AsyncClient, ask: Ask, traces: list[Trace]) -> Trace:
    """One request to its end, or until the task is cancelled."""
    trace = Trace(ask.label, ask.tokens, time.perf_counter())
    traces.append(trace)
    steps, ended = ask.steps, False
    try:
        async with client.sse(ask.path, method="POST", json=ask.body, max_event_size=MAX_EVENT_BYTES) as source:
            trace.status = source.response.status_code
            if trace.status != 200:
                trace.broken = trace.status != 429
                return trace
            async for message in source:
                if message.event == "state":
                    data = json.loads(message.data)
                    trace.states.append((time.perf_counter(), min(1.0, data["step"] / steps), data["nfe"]))
                ended |= message.event == "done"
            trace.num_bytes = source.response.num_bytes_downloaded
    except httpx2.TransportError:
        pass
    if ended:
        trace.ended = time.perf_counter()
    trace.broken = not ended
    return trace


async def closed_loop(client: httpx2.AsyncClient, asks: Iterator[Ask], traces: list[Trace], end: float) -> None:
    """One client: the next request once the last has ended, a moment later if it was not served."""
    while time.perf_counter() < end and (ask := next(asks, None)) is not None:
        trace = await ask_server(client, ask, traces)
        if trace.status != 200:
            await asyncio.sleep(0.5)


async def open_loop(client: httpx2.AsyncClient, plan: Plan, asks: Iterator[Ask], traces: list[Trace]) -> None:
    """Poisson arrivals, whatever has become of those before."""
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for at in poisson_times(plan.rate, plan.warmup + plan.seconds, plan.seed):
            await asyncio.sleep(max(0.0, begin + at - time.perf_counter()))
            group.create_task(ask_server(client, next(asks), traces))


async def short_loop(client: httpx2.AsyncClient, asks: Iterator[Ask], traces: list[Trace], end: float) -> None:
    """A short request each second or so, at no fixed phase of the long ones' steps."""
    while time.perf_counter() < end:
        await asyncio.sleep(0.7)
        await ask_server(client, next(asks), traces)


async def play(plan: Plan) -> Outcome:
    """The whole plan in this event loop; what has not ended after `drain` is cut off."""
    traces: list[Trace] = []
    start, end = plan.window(time.perf_counter())
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=plan.url, timeout=None, limits=limits) as client:
        asks = plan.asks()
        work = [closed_loop(client, asks, traces, end) for _ in range(plan.closed)]
        if plan.rate:
            work.append(open_loop(client, plan, asks, traces))
        if plan.long:
            model = plan.models["/sample"]
            long = endless(LONG, model, "long", plan.seed)
            work += [closed_loop(client, long, traces, end) for _ in range(plan.long)]
            work.append(short_loop(client, endless(SHORT, model, "short", plan.seed + 1), traces, end))
        tasks = [asyncio.create_task(each) for each in work]
        patience = None if plan.requests else end + plan.drain - time.perf_counter()
        _, left = await asyncio.wait(tasks, timeout=patience)
        for task in left:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if task not in left:
                task.result()
    return Outcome(traces, start, min(end, time.perf_counter()))


def main() -> None:
    outcome = asyncio.run(play(Plan(**json.load(sys.stdin))))
    json.dump(asdict(outcome), sys.stdout)


if __name__ == "__main__":
    main()
