"""Crowds of 1, 10 and 50 times what the server takes at once, who come again when they are told to.

    python -m benchmarks overload [--quick] [--times 1 10 50] [--at_once 16] [--checkpoint_path DIR]

All come at the same moment, from one address, each with one request. The server has the first core and they the second. The
ideal is a queue: requests one batch after the other, at the rate of the crowd that is served at once. Goodput is
what was served by the time that the last one was, those few included who at the end cannot fill a batch.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
from typing import Any

import httpx2

from ..figures import median, percentile
from ..models import folders
from ..report import Section, Table
from .crowd import Crowd, Visit, pinned
from .process import checkpoint_flags, serving

BODY: dict[str, Any] = {"seq_len": 64, "num_inference_steps": 64, "timeout_s": 600}
PRICE = 64 * 64
"""Token passes of such a request. As many as are taken at once should need some seconds, as Retry-After has whole ones."""
GOODPUT, MAKESPAN = 0.9, 2.0
"""Aims: of the goodput at 1 x, and times the ideal queue's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 50], help="crowds, in what is taken at once")
    parser.add_argument("--at_once", type=int, default=16, help="requests that the server takes at once")
    parser.add_argument("--rounds", type=int, default=5, help="baselines, of which the median counts")
    parser.add_argument("--checkpoint_path", action="append", default=[], help="an absorbing checkpoint to serve")
    parser.add_argument(
        "--server_flags", type=shlex.split, default=[], help="more flags of python -m server, in one word"
    )


async def come(url: str, count: int) -> list[Visit]:
    """So many at the same moment, each until it was served."""
    crowd = Crowd(url)
    visits = await asyncio.gather(*(crowd.visit(1, "/sample", BODY) for _ in range(count)))
    await crowd.close()
    return visits


def makespan(visits: list[Visit]) -> float:
    """Seconds until the last of them was served."""
    return max(visit.done for visit in visits) - min(visit.sent for visit in visits)


def drained(visits: list[Visit], at_once: int) -> list[tuple[float, float]]:
    """For everyone who was told to wait: seconds told, and those until as many as are taken at once had been served."""
    done = sorted(visit.done for visit in visits)
    found = []
    for visit in visits:
        for when, told in visit.refused:
            later = [time for time in done if time > when]
            if later:
                found.append((told, later[min(at_once, len(later)) - 1] - when))
    return found


def section(arguments: argparse.Namespace) -> Section:
    """One table, a row a crowd."""
    at_once, times = (8, [1, 10]) if arguments.quick else (arguments.at_once, arguments.times)
    rounds = 2 if arguments.quick else arguments.rounds
    flags = [
        "--device",
        arguments.device,
        "--dtype",
        arguments.dtype,
        "--num_threads",
        str(arguments.num_threads or 1),
    ]
    flags += ["--max_outstanding_work", str(2 * at_once * PRICE), *arguments.server_flags]  # one client gets half
    note = (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip()
    table = Table(["crowd", "served", "refusals each", "makespan s", "x ideal queue", "goodput / that at 1 x",
                   "told to wait s, p50 / p99", "true drain s, p50 / p99", "verdict"])  # fmt: skip
    result = Section("overload", "Overload", [note, table])
    with folders(arguments.checkpoint_path, ("absorbing",)) as paths:
        named = checkpoint_flags(paths)
        first, second, *_ = [*sorted(os.sched_getaffinity(0))] * 2
        with pinned([first]), serving("server", [*named, *flags]) as server, pinned([second]):
            asyncio.run(come(server.url, at_once))
            base = median([at_once / makespan(asyncio.run(come(server.url, at_once))) for _ in range(rounds)])
            for factor in times:
                visits = asyncio.run(come(server.url, factor * at_once))
                _add(result, table, visits, factor, at_once, base)
                httpx2.get(server.url + "/health").raise_for_status()
    return result


def _add(result: Section, table: Table, visits: list[Visit], factor: int, at_once: int, base: float) -> None:
    served = [visit for visit in visits if visit.status == 200]
    span, ideal = makespan(visits), len(visits) / base
    goodput = len(served) / span / base
    waits = drained(visits, at_once)
    told, true = [told for told, _ in waits], [true for _, true in waits]
    failures = []
    if len(served) < len(visits):
        failures.append(f"{factor} x: {len(visits) - len(served)} were not served")
    if span > MAKESPAN * ideal and factor > 1:
        failures.append(f"{factor} x: {span / ideal:.2f} times as long as an ideal queue")
    if goodput < GOODPUT and factor > 1:
        failures.append(f"{factor} x: goodput {goodput:.2f} of that at 1 x")
    result.failures += failures
    refusals = sum(len(visit.refused) for visit in visits) / len(visits)

    def pair(values: list[float]) -> str:
        return f"{median(values):.1f} / {percentile(values, 99):.1f}" if values else "-"

    verdict = "failed" if failures else "ok"
    table.add(
        f"{factor} x",
        f"{len(served)} of {len(visits)}",
        refusals,
        span,
        span / ideal,
        goodput,
        pair(told),
        pair(true),
        verdict,
    )
