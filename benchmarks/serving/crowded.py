"""One request to a server on the CPU, alone on the machine and beside busy neighbours, by how its threads wait for each other.

    python -m benchmarks crowded

All servers run at once and sleep until they are asked, in turn, so that whatever else the machine does meets each of them. Then
come the neighbours: processes that do nothing but count, or that multiply matrices with torch and so have threads that spin,
too. A fair share: each thread that wants a core, the server's and the neighbours', gets as much of the cores as any other.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import httpx2
import torch

from token_diffusion.networks.cpu.threads import available_cpus

from ..figures import median
from ..models import DEMOS
from ..report import Section, Table
from .process import serving

BODY = {"seq_len": 64, "num_inference_steps": 128, "seed": 1, "stream": False, "timeout_s": 600}
BEFORE = "always spins (GNU's default)"
OURS = "as it starts"
WAYS: dict[str, tuple[list[str], dict[str, str]]] = {
    BEFORE: ([], {"GOMP_SPINCOUNT": "300000"}),
    OURS: ([], {}),
    "GOMP_SPINCOUNT=10000": ([], {"GOMP_SPINCOUNT": "10000"}),
    "GOMP_SPINCOUNT=1000": ([], {"GOMP_SPINCOUNT": "1000"}),
    "OMP_WAIT_POLICY=PASSIVE": ([], {"OMP_WAIT_POLICY": "PASSIVE"}),
    "one thread": (["--num_threads", "1"], {}),
}
"""name -> flags and variables of a server."""

WHILE_WANTED = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    "
NEIGHBOURS = {
    "counting": WHILE_WANTED + "sum(range(10**6))",
    "multiplying": "import torch\na = torch.rand(384, 384)\n" + WHILE_WANTED + "torch.relu(a @ a)",
}
"""kind -> the program of one of them, which ends with the process that is named to it."""


@dataclass
class Times:
    """Seconds of each request, by server and then by what was beside it; "" is nobody."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, way: str, beside: str, seconds: float) -> None:
        self.seconds.setdefault(way, {}).setdefault(beside, []).append(seconds)

    def median(self, way: str, beside: str) -> float:
        return median(self.seconds[way][beside])


@contextmanager
def neighbours(kind: str, count: int) -> Iterator[None]:
    """So many of them, once they are at work."""
    programs = [subprocess.Popen([sys.executable, "-c", NEIGHBOURS[kind], str(os.getpid())]) for _ in range(count)]
    try:
        while any(_cpu_s(program.pid) < 1.0 for program in programs):
            if any(program.poll() is not None for program in programs):
                raise RuntimeError(f"a neighbour that was to be {kind} has ended")
            time.sleep(0.1)
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9


def fair_share(threads: int, others: int, cpus: float) -> float:
    """By what a request of so many threads takes longer beside `others`, if all get the same of the CPUs."""
    return max(1.0, (threads + others) / cpus)


def measure(urls: Mapping[str, str], kinds: Sequence[str], count: int, rounds: int) -> Times:
    """`rounds` requests to each server in turn, first beside nobody, then beside `count` neighbours of each kind."""
    times = Times()
    with httpx2.Client(timeout=900) as client:
        for kind in ["", *kinds]:
            with ExitStack() as stack:
                if kind:
                    stack.enter_context(neighbours(kind, count))
                for turn in range(rounds + 1):
                    for way, url in urls.items():
                        start = time.perf_counter()
                        client.post(f"{url}/sample", json=BODY).raise_for_status()
                        if turn > 0:  # the first is for the caches, and to look around
                            times.add(way, kind, time.perf_counter() - start)
    return times


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--neighbours", type=int, default=4, help="how many of a kind (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=list(NEIGHBOURS), default=list(NEIGHBOURS), help="of neighbours")
    parser.add_argument("--rounds", type=int, default=9, help="requests to each server (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="servers to compare")
    parser.add_argument("--preload", metavar="LIBRARY", help="one more: another OpenMP, such as LLVM's libomp.so.5")


def section(arguments: argparse.Namespace) -> Section:
    ways = {name: WAYS[name] for name in dict.fromkeys([BEFORE, *arguments.ways])}
    if arguments.preload is not None:
        ways[os.path.basename(arguments.preload)] = ([], {"LD_PRELOAD": arguments.preload})
    threads = [] if arguments.num_threads is None else ["--num_threads", str(arguments.num_threads)]
    with ExitStack() as stack:
        urls = {}
        for name, (flags, variables) in ways.items():
            served = ["--checkpoint_path", str(DEMOS["mdlm"]), *threads, *flags]
            urls[name] = stack.enter_context(serving("server", served, variables=variables)).url
        times = measure(urls, arguments.kinds, arguments.neighbours, 2 if arguments.quick else arguments.rounds)
    return _told(times, arguments.kinds, arguments.neighbours)


def _told(times: Times, kinds: Sequence[str], count: int) -> Section:
    cpus, threads = available_cpus(), torch.get_num_threads()
    quiet = times.median(BEFORE, "")
    columns = ["server", "alone, s", "times always spinning"]
    for kind in kinds:
        columns += [f"beside {count} {kind}, s", "times a fair share"]
    table = Table(columns)
    for way in times.seconds:
        cells: list[object] = [way, times.median(way, ""), times.median(way, "") / quiet]
        for kind in kinds:
            others = count * (threads if kind == "multiplying" else 1)
            fair = quiet * fair_share(threads, others, cpus)
            cells += [times.median(way, kind), times.median(way, kind) / fair]
        table.add(*cells)
    told = (
        f"A request for {BODY['seq_len']} tokens in {BODY['num_inference_steps']} steps to the demo checkpoint mdlm, not "
        f"streamed: medians. {cpus:g} CPUs, {threads} threads a server. A fair share is the time alone of the server that "
        "always spins, times the threads that want a CPU, by CPUs."
    )
    return Section("crowded", "Busy neighbours", [told, table])
