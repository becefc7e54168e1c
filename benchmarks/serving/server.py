"""The server under load, against a plain FastAPI server of the same model and against its own engine without HTTP.

    python -m benchmarks server [--quick] [--checkpoint_path DIR ...] [--clients 1 16 64] [--server_flags='--dtype bfloat16']

`python -m server` runs as a user starts it, the load generator (load.py) in a process of its own on the same machine, so
that it competes with the server for its cores. Mixed requests, traffic.py: three endpoints, lengths of 32-256 tokens, 8-128
steps, all streamed, the same ones for every server. Rates are those inside a window after a warm-up, in which requests
that begin or end outside count for the part that fell inside; tokens are completion tokens. Latencies are those of requests
sent until its end; those that had not ended some time after it are cut off, counted, and missing in "end to end".
"""

from __future__ import annotations

import argparse
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import httpx2

from token_diffusion.checkpoint import Checkpoint

from ..figures import median, percentile
from ..models import folders, load_all
from ..report import Section, Table, text
from .direct import drive
from .load import Plan, generate
from .measure import Summary
from .process import checkpoint_flags, serving
from .traffic import endpoints, mixed

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
OPEN_LOADS = (0.5, 0.8, 1.2)
BURST_STEPS = 64
"""Bound of a request's steps where the authors' loops take part, which would take minutes otherwise."""
TARGET = 0.9
"""Share of the engine's tokens/s that must be left over HTTP."""

NOTE = """Times in milliseconds, "end to end" in seconds, p50 / p99. One random 22.7 M model an endpoint pair (absorbing for
`/sample` and `/sample/block`, hybrid for `/sample/hybrid`) unless the command names checkpoints. "NFE/s" counts a forward
pass once for each request that had a part in it. What is measured how: `benchmarks/serving/server.py`."""

COLUMNS = ["tokens/s", "NFE/s", "requests/s", "first state", "between states", "end to end", "/health p99"]
COLUMNS += ["bytes a stream", "rejected", "ended", "cut off"]


@dataclass(frozen=True)
class Setup:
    """What all measurements share."""

    paths: dict[str, Path]
    plan: Plan
    flags: list[str]
    """of both kinds of servers"""
    server_flags: list[str]
    """of ours alone"""

    @property
    def checkpoint_flags(self) -> list[str]:
        return checkpoint_flags(self.paths)


@contextmanager
def repeating(call: Callable[[], None], pause_s: float) -> Iterator[None]:
    """`call` again and again from a thread while the block runs."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(pause_s):
            call()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def counting(url: str) -> Iterator[list[tuple[float, int]]]:
    """(time, the engine's ticks until then), asked for each quarter of a second while the block runs."""
    seen: list[tuple[float, int]] = []
    with httpx2.Client(base_url=url, timeout=30) as client:

        def look() -> None:
            seen.append((time.perf_counter(), client.get("/info").json()["load"]["ticks"]))

        with repeating(look, 0.25):
            yield seen


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """Milliseconds of GET /health, asked about 20 times a second while the block runs."""
    times: list[float] = []
    with httpx2.Client(base_url=url, timeout=30) as client:

        def probe() -> None:
            start = time.perf_counter()
            client.get("/health").raise_for_status()
            times.append((time.perf_counter() - start) * 1e3)

        with repeating(probe, 0.05):
            yield times


def cells(summary: Summary, health: Sequence[float]) -> list[object]:
    """A summary as the columns of COLUMNS."""

    return [
        summary.tokens_per_s,
        summary.nfe_per_s,
        summary.requests_per_s,
        _pair(summary.first_state_p50, summary.first_state_p99, 1e3),
        _pair(summary.gap_p50, summary.gap_p99, 1e3),
        _pair(summary.total_p50, summary.total_p99, 1),
        percentile(health, 99),
        summary.bytes_per_stream,
        f"{summary.rejected_share:.1%}",
        summary.finished,
        summary.unfinished,
    ]


def _pair(low: float, high: float, unit: float) -> str:
    return f"{text(low * unit)} / {text(high * unit)}"


def load(plan: Plan) -> tuple[Summary, list[float]]:
    """One plan against the server at its URL, probed meanwhile."""
    with probing(plan.url) as health:
        outcome = generate(plan)
    return outcome.summary, health


def closed_loops(found: Section, plan: Plan, clients: Sequence[int]) -> float:
    """The table of closed loops; returns the requests/s at saturation."""
    table = Table(["clients", *COLUMNS])
    most = 0.0
    for count in clients:
        summary, health = load(replace(plan, closed=count))
        table.add(count, *cells(summary, health))
        note_broken(found, summary, f"{count} clients")
        most = max(most, summary.tokens_per_s)
    found.parts += ["**Closed loop**: each client sends its next request when its last one has ended.", table]
    asks = list(islice(mixed(plan.models, plan.seed, **plan.limits), 1000))
    return most / (sum(ask.tokens for ask in asks) / len(asks))


def open_loops(found: Section, plan: Plan, saturation: float) -> None:
    """The table of open loops."""
    table = Table(["x saturation", *COLUMNS])
    for share in OPEN_LOADS:
        summary, health = load(replace(plan, rate=share * saturation))
        table.add(share, *cells(summary, health))
        note_broken(found, summary, f"{share} x saturation")
    found.parts += [f"**Open loop**: Poisson arrivals; saturation is {saturation:.2f} requests/s.", table]


def short_among_long(found: Section, plan: Plan, clients: int) -> None:
    """How long a short request waits for its first state when every other one is long."""
    with counting(plan.url) as ticks:
        outcome = generate(replace(plan, long=clients, warmup=max(plan.warmup, 5.0), drain=0.0))
    short = [trace for trace in outcome.traces if trace.label == "short" and trace.sent > outcome.start]
    first = [value for trace in short if (value := trace.first_state) is not None]
    inside = [seen for seen in ticks if outcome.start < seen[0] <= outcome.end]  # one clock for all processes
    tick = (inside[-1][0] - inside[0][0]) / (inside[-1][1] - inside[0][1])
    low, high = percentile(first, 50), percentile(first, 99)
    columns = [
        "long clients",
        "short requests",
        "first state p50 / p99",
        "an engine tick",
        "in ticks p50 / p99",
        "aim",
    ]
    table = Table(columns)
    table.add(clients, len(first), _pair(low, high, 1e3), tick * 1e3, _pair(low, high, 1 / tick), "at most 3")
    found.parts += [
        "**A short request among long ones**: 32 tokens in 8 steps, sent while all other clients run 256 tokens in 128 "
        "steps. A tick is the mean time of an engine step meanwhile, a forward pass with all that belongs to it.",
        table,
    ]
    if low > 3 * tick:
        found.failures.append(f"a short request waited {low / tick:.1f} ticks for its first state, not 3")


def against_engine(
    found: Section, plan: Plan, checkpoints: dict[str, Checkpoint], clients: int, requests: int, rounds: int
) -> None:
    """HTTP and the bare engine in turn, the same requests to their end."""
    plan = replace(plan, closed=clients, requests=requests)
    max_tokens = httpx2.get(f"{plan.url}/info").json()["limits"]["max_batch_tokens"]
    http, direct = [], []
    for _ in range(rounds):
        http.append(generate(plan).summary.tokens_per_s)
        direct.append(drive(checkpoints, plan, max_tokens).summary.tokens_per_s)
    share = median([a / b for a, b in zip(http, direct, strict=True)])
    table = Table(["clients", "requests", "HTTP tokens/s", "engine alone tokens/s", "HTTP / engine", "target"])
    table.add(clients, requests, median(http), median(direct), share, f"at least {TARGET}")
    found.parts += [
        f"**What HTTP costs**: the same requests straight through `Batch` in the server's schedule, in turn, {rounds} rounds.",
        table,
    ]
    if share < TARGET:
        found.failures.append(f"over HTTP only {share:.2f} of the engine's tokens/s are left, not {TARGET}")


def time_burst(url: str, plan: Plan, requests: int, clients: int) -> tuple[float, Summary]:
    """Seconds until all requests are done."""
    outcome = generate(replace(plan, url=url, closed=clients, requests=requests, limits={"most_steps": BURST_STEPS}))
    return outcome.end - outcome.start, outcome.summary


def against_plain(found: Section, setup: Setup, url: str, requests: int) -> None:
    """The same requests to the plain server, with the authors' loops and with our samplers."""
    alone, _ = time_burst(url, setup.plan, requests, 1)
    ours, summary = time_burst(url, setup.plan, requests, requests)
    columns = ["server", "one after the other s", "all at once s", "it / ours, at once", "tokens/s at once"]
    table = Table([*columns, "first state p50 / p99", "end to end p50 / p99"])

    def add(name: str, first_s: float, burst_s: float, summary: Summary) -> None:
        first = _pair(summary.first_state_p50, summary.first_state_p99, 1e3)
        total = _pair(summary.total_p50, summary.total_p99, 1)
        table.add(name, first_s, burst_s, burst_s / ours, summary.tokens_per_s, first, total)

    add("ours", alone, ours, summary)
    for loop, name in (("ours", "plain, our samplers one at a time"), ("textbook", "plain, the authors' loops")):
        with serving(
            "benchmarks.serving.plain_server", [*setup.checkpoint_flags, *setup.flags, "--loop", loop]
        ) as server:
            burst, summary = time_burst(server.url, setup.plan, requests, requests)
        add(name, burst, burst, summary)
    found.parts += [
        f"**Against the server people write**: FastAPI, a lock, one request at a time. The same {requests} mixed requests "
        f"(at most {BURST_STEPS} steps) until the last is done. A server that takes one at a time needs as long for them "
        "all at once as one after the other, so it is timed once.",
        table,
    ]


def note_broken(found: Section, summary: Summary, where: str) -> None:
    if summary.broken:
        found.failures.append(f"{summary.broken} requests failed or ended without done at {where}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint_path", action="append", default=[], help="a checkpoint to serve; repeatable")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS), help="closed loops to run")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each window that counts")
    parser.add_argument("--drain", type=float, default=20.0, help="seconds that requests may go on after it")
    parser.add_argument("--seed", type=int, default=0, help="of the requests")
    parser.add_argument(
        "--server_flags", type=shlex.split, default=[], help="more flags of python -m server, in one word"
    )


def section(arguments: argparse.Namespace) -> Section:
    """All tables of the server."""
    found = Section("server", "The server under load", [NOTE])
    quick = arguments.quick
    with folders(arguments.checkpoint_path, ("absorbing", "hybrid")) as paths:
        checkpoints = load_all(paths, arguments.device, arguments.dtype)
        plan = Plan(
            "",
            endpoints({name: checkpoint.process for name, checkpoint in checkpoints.items()}),
            5.0 if quick else arguments.seconds,
            warmup=1.0 if quick else 3.0,
            drain=3.0 if quick else arguments.drain,
            seed=arguments.seed,
        )
        threads = [] if arguments.num_threads is None else ["--num_threads", str(arguments.num_threads)]
        flags = ["--device", arguments.device, "--dtype", arguments.dtype, *threads]
        setup = Setup(paths, plan, flags, arguments.server_flags)
        measure(found, setup, checkpoints, (1, 16) if quick else arguments.clients, quick)
    return found


def measure(
    found: Section, setup: Setup, checkpoints: dict[str, Checkpoint], clients: Sequence[int], quick: bool
) -> None:
    """Every part, in an order in which what is compared stands close together."""
    with serving("server", [*setup.checkpoint_flags, *setup.flags, *setup.server_flags]) as server:
        plan = replace(setup.plan, url=server.url)
        saturation = closed_loops(found, plan, clients)
        open_loops(found, plan, saturation)
        if "/sample" in plan.models:
            short_among_long(found, plan, 8 if quick else 32)
        against_engine(found, plan, checkpoints, 16, 16 if quick else 32, 1 if quick else 2)
        against_plain(found, setup, server.url, 4 if quick else 16)
