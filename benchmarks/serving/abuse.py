"""What a stranger feels while others misbehave: huge prompts, nonsense bodies, greedy requests, idle connections.

    python -m benchmarks abuse [--before DIR]

One live server a scenario. Each begins with the stranger alone, who asks /health or for a sample of 8 tokens, again and again;
then the others come, from another address, and go on as long as the stranger does. A server of another checkout, DIR, is
measured by the same scenarios in the same run. No answer within `GIVEN_UP_S` counts as that long. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .. import ROOT
from ..figures import median
from ..models import DEMOS
from ..report import Section, Table
from .process import ServerProcess, serving

OTHERS = "127.0.0.2"
"""Where those who misbehave come from; the stranger comes from 127.0.0.1."""
GIVEN_UP_S = 60.0
DESCRIPTORS = 256
"""That a server may have open in the scenario of idle connections."""

TINY = {"seq_len": 8, "num_inference_steps": 8, "seed": 1, "stream": False, "timeout_s": GIVEN_UP_S}
GREEDY = {"num_samples": 16, "seq_len": 512, "num_inference_steps": 10_000, "block_size": 1, "timeout_s": 600}


class Raw:
    """HTTP/1.1 by hand, one connection a request: what is sent may be less than a request, and more than is good."""

    def __init__(self, url: str, source: str = "127.0.0.1") -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self.host, self.port, self.source = parts.hostname, parts.port, source

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port, local_addr=(self.source, 0))

    async def ask(self, method: str, path: str, body: bytes = b"") -> int:
        """The status of the answer, which is read to its end; 0 if there is none."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            reader, writer = await self.connect()
        except OSError:
            return 0
        try:
            with contextlib.suppress(OSError):  # it may refuse the body before it has all of it, and say so
                writer.write(head.encode() + body)
                await writer.drain()
            answer = await reader.read()
            return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
        except (OSError, ValueError):
            return 0
        finally:
            writer.close()


@dataclass(frozen=True)
class Scenario:
    """`others(raw, index)` is what each of `number` misbehaving clients does, over and over, while a stranger asks `visit`."""

    name: str
    visit: Callable[[Raw], Coroutine[Any, Any, int]]
    others: Callable[[Raw, int], Awaitable[object]]
    number: int
    descriptors: int | None = None


async def _health(raw: Raw) -> int:
    return await raw.ask("GET", "/health")


async def _tiny(raw: Raw) -> int:
    return await raw.ask("POST", "/sample", json.dumps(TINY).encode())


async def _huge_prompt(raw: Raw, index: int) -> None:
    await raw.ask("POST", "/sample", json.dumps({"prompt": "word " * 199_900, "seq_len": 64}).encode())


async def _unknown_fields(raw: Raw, index: int) -> None:
    fields = ",".join(f'"a{number}":1' for number in range(80_000))
    await raw.ask("POST", "/sample", f"{{{fields}}}".encode())


async def _greedy(raw: Raw, index: int) -> None:
    await raw.ask("POST", "/sample/block", json.dumps(GREEDY).encode())


async def _half_a_line(raw: Raw, index: int) -> None:
    """Opens a connection, sends half a request line, and comes back when it is closed."""
    with contextlib.suppress(OSError):
        reader, writer = await raw.connect()
        try:
            writer.write(b"POST /sam")
            await reader.read()
        finally:
            writer.close()
    await asyncio.sleep(1)


SCENARIOS = (
    Scenario("20 clients send prompts of 1 MB; a sample of 8 tokens", _tiny, _huge_prompt, 20),
    Scenario("4 clients send 80,000 unknown fields; /health", _health, _unknown_fields, 4),
    Scenario("4 requests of 16 samples of 512 tokens in blocks of 1; a sample of 8 tokens", _tiny, _greedy, 4),
    Scenario(
        f"400 idle connections, {DESCRIPTORS} descriptors; /health",
        _health,
        _half_a_line,
        400,
        descriptors=DESCRIPTORS,
    ),
)


@dataclass(frozen=True)
class Felt:
    """Seconds of each of the stranger's visits, alone and beside the others; how many had no good answer; log bytes a minute."""

    alone: list[float]
    beside: list[float]
    failed: int
    log_per_minute: float


async def play(scenario: Scenario, server: ServerProcess, seconds: float) -> Felt:
    """The stranger alone, then beside the others, for about `seconds` each."""
    stranger = Raw(server.url)
    await _visits(scenario, stranger, 1.0)  # warm
    alone, _ = await _visits(scenario, stranger, seconds / 3)
    others = [
        asyncio.create_task(_over_and_over(scenario, Raw(server.url, OTHERS), index))
        for index in range(scenario.number)
    ]
    await asyncio.sleep(1.0)
    before, start = server.log_bytes(), time.perf_counter()
    beside, failed = await _visits(scenario, stranger, seconds)
    written, passed = server.log_bytes() - before, time.perf_counter() - start
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return Felt(alone, beside, failed, written / passed * 60)


async def _visits(scenario: Scenario, raw: Raw, seconds: float) -> tuple[list[float], int]:
    times: list[float] = []
    failed, end = 0, time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        try:
            status = await asyncio.wait_for(scenario.visit(raw), GIVEN_UP_S)
        except TimeoutError:
            status = 0
        failed += status != 200
        times.append(time.perf_counter() - start if status == 200 else GIVEN_UP_S)
        await asyncio.sleep(0.05)
    return times, failed


async def _over_and_over(scenario: Scenario, raw: Raw, index: int) -> None:
    while True:
        await scenario.others(raw, index)
        await asyncio.sleep(0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--before", type=Path, help="another checkout, whose server is measured too")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="that each scenario lasts; visits under way are not cut"
    )


def section(arguments: argparse.Namespace) -> Section:
    seconds = min(arguments.seconds, 5.0) if arguments.quick else arguments.seconds
    sides = {"this": ROOT} if arguments.before is None else {"before": arguments.before, "this": ROOT}
    table = Table(["others; stranger", "server", "alone, s", "beside, s", "worst, s", "unanswered", "log, MB/min"])
    for scenario in SCENARIOS:
        for name, root in sides.items():
            felt = _measured(scenario, root, _flags(arguments), seconds)
            row = (median(felt.alone), median(felt.beside), max(felt.beside))
            table.add(scenario.name, name, *row, f"{felt.failed} of {len(felt.beside)}", felt.log_per_minute / 1e6)
    note = (
        "What one stranger waits for an answer while others misbehave: median alone, median and worst beside them. What is not "
        f"answered within {GIVEN_UP_S:g} s counts as that long. Scenarios: `benchmarks/serving/abuse.py`."
    )
    return Section("abuse", "Beside others who misbehave", [note, table])


def _flags(arguments: argparse.Namespace) -> list[str]:
    threads = [] if arguments.num_threads is None else ["--num_threads", str(arguments.num_threads)]
    return ["--checkpoint_path", str(DEMOS["mdlm"]), "--device", arguments.device, *threads]


def _measured(scenario: Scenario, root: Path, flags: Sequence[str], seconds: float) -> Felt:
    with serving("server", flags, root=root, descriptors=scenario.descriptors) as server:
        return asyncio.run(play(scenario, server, seconds))
