"""A short request alone, beside a greedy client, and among equal ones.

    python -m benchmarks neighbours [--quick] [--checkpoint_path DIR] [--url http://127.0.0.1:8000]

The short one has 64 tokens. The greedy client has four requests of sixteen samples all the time, from another address.
Its fair share of the machine is one of two, so that it should take twice its time alone; among 33 equal clients it should take
what 33 such requests take that are sent at once. Everything is measured in turn, so that noise meets all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from ..figures import median, percentile
from ..models import folders
from ..report import Section, Table
from .crowd import Crowd
from .process import checkpoint_flags, serving

SHORT = {"seq_len": 64, "num_inference_steps": 64}
GREEDY = {"seq_len": 64, "num_inference_steps": 1000, "num_samples": 16, "timeout_s": 600}
GREEDY_REQUESTS, EQUALS = 4, 32
BESIDE_GREEDY, BESIDE_EQUALS = 3.0, 1.5
"""Aims: times its time alone, and times its fair share."""
SETTLE_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=10, help="short requests of each kind")
    parser.add_argument("--checkpoint_path", action="append", default=[], help="an absorbing checkpoint to serve")
    parser.add_argument("--url", help="a server that runs already, instead of one that is started for it")
    parser.add_argument(
        "--server_flags",
        type=shlex.split,
        default=["--max_outstanding_s", "3600"],
        help="more flags of python -m server, in one word; by default there is room for all that the greedy one wants",
    )


@contextmanager
def chosen(arguments: argparse.Namespace) -> Iterator[str]:
    """URL of the server that is measured."""
    if arguments.url is not None:
        yield arguments.url
        return
    flags = ["--device", arguments.device, "--dtype", arguments.dtype, *arguments.server_flags]
    if arguments.num_threads is not None:
        flags += ["--num_threads", str(arguments.num_threads)]
    with folders(arguments.checkpoint_path, ("absorbing",)) as paths:
        named = checkpoint_flags(paths)
        with serving("server", [*named, *flags]) as server:
            yield server.url


async def measure(url: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each short request, by what was beside it; "at once": until all of as many as there are equals were done."""
    crowd = Crowd(url)
    found: dict[str, list[float]] = {"alone": [], "greedy": [], "equals": [], "at once": []}

    async def short() -> float:
        visit = await crowd.visit(1, "/sample", SHORT)
        if visit.status != 200:
            raise RuntimeError(f"a short request was answered {visit.status}")
        return visit.seconds

    await short()
    for _ in range(rounds):
        found["alone"].append(await short())
        everybody = [crowd.visit(10 + index, "/sample", SHORT) for index in range(EQUALS + 1)]
        visits = await asyncio.gather(*everybody)
        found["at once"].append(max(visit.done for visit in visits) - min(visit.sent for visit in visits))
        for name, number, count, body in (
            ("greedy", [2] * GREEDY_REQUESTS, GREEDY_REQUESTS, GREEDY),
            ("equals", list(range(10, 10 + EQUALS)), EQUALS, SHORT),
        ):
            others = [asyncio.create_task(crowd.again(number[index], "/sample", body)) for index in range(count)]
            await asyncio.sleep(SETTLE_S)
            found[name].append(await short())
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await _until_idle(crowd.client(1))
    await crowd.close()
    return found


async def _until_idle(client: httpx2.AsyncClient) -> None:
    while (await client.get("/info")).json()["load"]["rows"]:
        await asyncio.sleep(0.02)


def section(arguments: argparse.Namespace) -> Section:
    """One table, a row for each kind of neighbours."""
    with chosen(arguments) as url:
        found = asyncio.run(measure(url, min(arguments.rounds, 2) if arguments.quick else arguments.rounds))
    alone = median(found["alone"])
    fair = {"alone": alone, "greedy": 2 * alone, "equals": median(found["at once"])}
    table = Table(
        ["beside", "short requests", "ms, median", "p90", "x alone", "its fair share, ms", "x fair share", "aim"]
    )
    names = {"alone": "nobody", "greedy": "64 greedy rows of one other client", "equals": f"{EQUALS} equal clients"}
    aims = {"alone": "", "greedy": f"<= {BESIDE_GREEDY:g} x alone", "equals": f"<= {BESIDE_EQUALS:g} x fair share"}
    for kind, name in names.items():
        times, share = found[kind], fair[kind]
        middle = median(times)
        table.add(
            name, len(times), middle * 1e3, percentile(times, 90) * 1e3, middle / alone, share * 1e3, middle / share, aims[kind]
        )  # fmt: skip
    result = Section("neighbours", "Neighbours", [(__doc__ or "").split("\n\n")[2].replace("\n", " ").strip(), table])
    if median(found["greedy"]) > BESIDE_GREEDY * alone:
        result.failures.append(
            f"beside a greedy client a short request takes more than {BESIDE_GREEDY:g} x its time alone"
        )
    if median(found["equals"]) > BESIDE_EQUALS * fair["equals"]:
        result.failures.append(f"among equal clients it takes more than {BESIDE_EQUALS:g} x its fair share")
    return result
