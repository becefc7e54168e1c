"""An hour, or a minute, of all kinds of visitors at once: does the server stay whole, and of the same size?

    python -m benchmarks soak --minutes 60

A live server of the demo checkpoints; mixed requests read to the end, left in the middle, read slowly, hung up on, sent in
crowds, and nonsense. Its resident memory is sampled from /proc, /health is asked all the time. At the end no row may be
busy and nobody wait, every stream must have ended with `done` or `error` and replayed to its tokens, the same requests must
give the same tokens as before the soak, and SIGTERM must end it with exit code 0. Linux only.

What must not grow is the memory's floor, `Result.floor`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import httpx2

from ..figures import median, percentile
from ..models import DEMOS, folders
from ..report import Section, Table
from .process import ServerProcess, checkpoint_flags, serving
from .traffic import Ask, endpoints, mixed
from .visitors import Log, Tokens, Visitors, again

HEALTH_S = 2.0
"""Within which /health must answer."""
EMPTY_S = 30.0
"""Within which all rows must be free once everybody has left."""
GOLDEN = 12
"""Requests that are asked before, during and after."""
MOST_CHANGED = 0.01
"""Share of golden requests that may differ while others are there, where the server runs in mode fast."""


@dataclass
class Result:
    """memory: (seconds since the start, MB). golden, changed: answers among others, and those that differ from before."""

    log: Log = field(default_factory=Log)
    memory: list[tuple[float, float]] = field(default_factory=list)
    golden: int = 0
    changed: int = 0
    exit_code: int = 0

    @property
    def floor(self) -> list[float]:
        """MB: the least of each minute, in which the server gives back once what it has freed. What lies above
        it is work under way and room for the next; what is lost or kept for good lifts the floor."""
        minutes: dict[int, float] = {}
        for seconds, mb in self.memory:
            minute = int(seconds // 60)
            minutes[minute] = min(mb, minutes.get(minute, mb))
        return list(minutes.values())

    @property
    def quarters(self) -> list[float]:
        """MB: the median of the floor in each quarter of the soak; none of one of less than four minutes."""
        floor = self.floor
        if len(floor) < 4:
            return []
        return [median(floor[len(floor) * index // 4 : len(floor) * (index + 1) // 4]) for index in range(4)]

    @property
    def slope_mb_per_hour(self) -> float:
        """Of the floor, from its second quarter to its last: a line through single minutes would mostly tell their noise."""
        quarters = self.quarters
        if not quarters:
            return 0.0
        half_hours = (self.memory[-1][0] - self.memory[0][0]) / 2 / 3600
        return (quarters[3] - quarters[1]) / half_hours


async def soak(server: ServerProcess, seconds: float, seed: int, sample_s: float = 0.2, **limits: int) -> Result:
    """All visitors for so long, and the checks before and after.

    Args:
        sample_s: between two looks at the memory. limits: `most_tokens` and `most_steps` of the requests.
    """
    result, generator = Result(), random.Random(seed)
    async with httpx2.AsyncClient(
        base_url=server.url, timeout=120, limits=httpx2.Limits(max_connections=None)
    ) as client:
        found = (await client.get("/models")).json()["models"]
        models = endpoints({model["name"]: model["process"] for model in found})
        requests = mixed(models, seed, **limits)
        visitors = Visitors(client, lambda: next(requests), result.log, generator)
        golden = list(islice(mixed(models, seed + 1, **limits), GOLDEN))
        before = [await visitors.read(ask) for ask in golden]
        await _live(visitors, server, golden, before, result, seconds, sample_s)
        await _wait_until_empty(client, result.log)
        for ask, tokens in zip(golden, before, strict=True):
            if await visitors.read(ask) != tokens:
                result.log.fault(f"{ask.path} {ask.body}: other tokens after the soak than before")
    result.exit_code = await asyncio.to_thread(server.stop)
    if result.exit_code != 0:
        result.log.fault(f"SIGTERM ended the server with exit code {result.exit_code}")
    return result


async def _live(
    visitors: Visitors,
    server: ServerProcess,
    golden: Sequence[Ask],
    before: Sequence[Tokens | None],
    result: Result,
    seconds: float,
    sample_s: float,
) -> None:
    start = asyncio.get_running_loop().time()
    end = start + seconds

    async def look() -> None:
        result.memory.append((asyncio.get_running_loop().time() - start, server.rss_mb()))

    async def compare() -> None:
        index = visitors.random.randrange(len(golden))
        tokens = await visitors.read(golden[index])
        if tokens is not None:
            result.golden, result.changed = result.golden + 1, result.changed + (tokens != before[index])

    visits = [(visitors.reader, 0.0)] * 4 + [(visitors.leaver, 0.2)] * 3 + [(visitors.slow_reader, 0.0)] * 4
    visits += [(visitors.impatient, 0.2)] * 2 + [(visitors.nonsense, 0.3), (compare, 0.1)]
    visits += [(visitors.crowd, max(5.0, min(60.0, seconds / 6))), (visitors.check_health, 0.5), (look, sample_s)]
    await asyncio.gather(*(again(visit, pause_s, end, visitors.log) for visit, pause_s in visits))


async def _wait_until_empty(client: httpx2.AsyncClient, log: Log) -> None:
    load = None
    for _ in range(int(EMPTY_S / 0.1)):
        load = (await client.get("/info")).json()["load"]
        if load["rows"] == 0 and load["waiting"] == 0:
            return
        await asyncio.sleep(0.1)
    log.fault(f"rows are stuck: {load} {EMPTY_S:.0f} s after the last visitor has left")


def verdict(result: Result, most_mb_per_hour: float) -> list[str]:
    """What must not have happened; nothing if all is well."""
    failures = list(result.log.faults)
    if (more := result.log.counts["faults"] - len(failures)) > 0:
        failures.append(f"{more} more faults")
    if result.slope_mb_per_hour > most_mb_per_hour:
        failures.append(f"memory grows by {result.slope_mb_per_hour:.1f} MB/hour, more than {most_mb_per_hour:g}")
    if (slowest := max(result.log.health_s, default=0.0)) > HEALTH_S:
        failures.append(f"/health once took {slowest:.1f} s")
    if result.changed > MOST_CHANGED * result.golden:
        failures.append(f"{result.changed} of {result.golden} answers differ from those given alone")
    return failures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=1.0, help="an hour shows what grows; a minute does not")
    parser.add_argument("--checkpoint_path", action="append", default=[], help="a checkpoint to serve; repeatable")
    parser.add_argument(
        "--most_mb_per_hour",
        type=float,
        help="slope of the memory's floor that fails; 20 from 30 minutes on, else none",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the visitors")
    parser.add_argument(
        "--server_flags", type=shlex.split, default=[], help="more flags of python -m server, in one word"
    )


def section(arguments: argparse.Namespace) -> Section:
    """Two tables: the visitors, and what was seen of the server."""
    minutes = min(arguments.minutes, 0.5) if arguments.quick else arguments.minutes
    most = arguments.most_mb_per_hour
    if most is None:
        most = 20.0 if minutes >= 30 else float("inf")
    flags = ["--device", arguments.device, "--dtype", arguments.dtype, *arguments.server_flags]
    with folders(arguments.checkpoint_path or [str(path) for path in DEMOS.values()], ()) as paths:
        result = run(paths, flags, minutes * 60, arguments.seed)
    note = (
        f"All kinds of visitors at once for {minutes:g} minutes, checks: `benchmarks/serving/soak.py`. The floor of the memory "
        "is the least of each minute, in which the server gives back what it has freed; its slope is that from the second "
        "quarter to the last."
    )
    found = Section("soak", "Soak", [note], verdict(result, most))
    counts = Table(["visits", "number"])
    for name, number in sorted(result.log.counts.items()):
        counts.add(name, number)
    memory = [mb for _, mb in result.memory]
    seen = Table(["memory at the start, most, at the end, MB", "its floor, median of each quarter", "floor's slope, MB/hour",
                  "/health p99 ms", "same tokens as alone", "exit code", "verdict"])  # fmt: skip
    seen.add(
        f"{memory[0]:.0f}, {max(memory):.0f}, {memory[-1]:.0f}",
        ", ".join(f"{mb:.0f}" for mb in result.quarters),
        result.slope_mb_per_hour,
        percentile(result.log.health_s, 99) * 1e3,
        f"{result.golden - result.changed} of {result.golden}",
        result.exit_code,
        "failed" if found.failures else "passed",
    )
    found.parts += [counts, seen]
    return found


def run(paths: dict[str, Path], flags: Sequence[str], seconds: float, seed: int, **options: float) -> Result:
    """A server of these checkpoints, soaked."""
    checkpoints = checkpoint_flags(paths)
    with serving("server", [*checkpoints, *flags]) as server:
        return asyncio.run(soak(server, seconds, seed, **options))  # type: ignore[arg-type]
