"""Clients that are killed, that dawdle and that ask for what breaks; after them the server is as it was before them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import moody_server
from tests.ailing_server import FORKS
from tests.live_server import wait_until
from tests.moody_server import HANGS, IS_NAN, RAISES

pytest_plugins = ["tests.server_fixtures"]

FLAGS = ["--header_timeout_s", "3", "--body_timeout_s", "3", "--send_timeout_s", "2", "--keep_alive_s", "3"]
KNOWN = {"seq_len": 32, "num_samples": 2, "num_inference_steps": 32, "seed": 7, "stream": False, "timeout_s": 30}
LONG = {"seq_len": 90, "num_samples": 4, "num_inference_steps": 2000, "timeout_s": 20}
LOUD = LONG | {"keyframe_every": 1, "include_text": True}
SMALL = {"seq_len": 8, "num_inference_steps": 4, "stream": False, "timeout_s": 20}
REFUSALS = {429, 500, 503, 504}


@dataclass(frozen=True)
class Process:
    """A server in a process of its own, and what it holds."""

    pid: int
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def status(self, name: str) -> int:
        """A number of /proc: `Threads`, `VmRSS` in kB."""
        found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1])

    def load(self) -> tuple[int, int]:
        load = httpx2.get(self.url + "/info", timeout=30).json()["load"]
        return load["rows"], load["waiting"]

    def answer(self) -> list[list[int]]:
        response = httpx2.post(self.url + "/sample", json=KNOWN, timeout=60)
        assert response.status_code == 200, response.text
        return [sample["tokens"] for sample in response.json()["samples"]]


@contextlib.contextmanager
def moody(folder: Path, log: Path, descriptors: int = 1024, flags: list[str] = FLAGS) -> Iterator[Process]:
    """`tests/moody_server.py`, that may open so many files."""
    arguments = ["--checkpoint_path", str(folder), *flags]
    child = FORKS.Process(target=moody_server.serve, args=(arguments, descriptors, str(log)))
    log.touch()
    child.start()
    try:
        running = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
        wait_until(lambda: not child.is_alive() or running.search(log.read_text()) is not None, timeout_s=120)
        found = running.search(log.read_text())
        assert found is not None and child.pid is not None, log.read_text()
        yield Process(child.pid, int(found[1]), log)
    finally:
        child.kill()
        child.join()


class Client:
    """One connection, and what has been read of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, body: Mapping[str, Any], part: float = 1.0) -> None:
        """Send a request, or the first `part` of it."""
        content = json.dumps(body).encode()
        head = b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        whole = head + b"Content-Length: %d\r\n\r\n" % len(content) + content
        self.writer.write(whole[: int(part * len(whole))])
        await self.writer.drain()

    async def status(self) -> int:
        return int((await self.reader.readuntil(b"\r\n")).split()[1])


@contextlib.asynccontextmanager
async def connected(port: int, reset: bool = False) -> AsyncIterator[Client]:
    """A connection that ends by FIN, or by RST."""
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    end.setblocking(False)
    await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", port))
    if reset:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reader, writer = await asyncio.open_connection(sock=end, limit=4096)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort() if reset else writer.close()


async def streaming(port: int, luck: random.Random) -> None:
    """Leaves in the middle of a stream."""
    async with connected(port, luck.random() < 0.5) as client:
        await client.ask(LONG)
        if await client.status() == 200:
            with contextlib.suppress(asyncio.IncompleteReadError):  # it was over before
                for _ in range(luck.randrange(1, 20)):
                    await client.reader.readuntil(b"\n\n")


async def waiting(port: int, luck: random.Random) -> None:
    """Leaves, running or queued, before there is an answer."""
    async with connected(port, luck.random() < 0.5) as client:
        await client.ask(LONG | {"stream": luck.random() < 0.3})
        await asyncio.sleep(luck.random() / 2)


async def writing(port: int, luck: random.Random) -> None:
    """Leaves in the head or in the body."""
    async with connected(port, luck.random() < 0.5) as client:
        await client.ask(LONG, part=luck.random())
        await asyncio.sleep(luck.random() / 4)


async def half_open(port: int, luck: random.Random) -> None:
    """Never ends its request; the server ends the connection."""
    async with connected(port) as client:
        await client.ask(LONG, part=luck.uniform(0.1, 0.9))
        answered = await client.reader.read()
        assert answered == b"" or b"408" in answered.split(b"\r\n")[0]


async def never_reading(port: int, luck: random.Random) -> None:
    """Stays until the server ends the connection, or the request."""
    async with connected(port) as client:
        await client.ask(LOUD)
        await asyncio.sleep(5)


async def slow(port: int, luck: random.Random) -> None:
    """Reads on and on, little at a time; its stream is its own to end."""
    async with connected(port) as client:
        await client.ask(LOUD | {"num_inference_steps": 20})
        text = b""
        while piece := await client.reader.read(2000):
            text += piece
            await asyncio.sleep(0.01)
    assert int(text.split()[1]) in REFUSALS or b"event: done" in text or b"event: error" in text


async def breaking(port: int, luck: random.Random) -> None:
    """Asks for what makes the network raise, hang, or give NaN."""
    prompt = luck.choice([RAISES, HANGS, IS_NAN])
    async with connected(port) as client:
        await client.ask(SMALL | {"prompt": prompt})
        # A step that raises ends all who share it; one that hangs, or a good neighbour of NaN, ends well.
        assert await client.status() in REFUSALS | ({200} if prompt == HANGS else set())


async def polite(port: int, luck: random.Random) -> None:
    async with connected(port) as client:
        await client.ask(SMALL)
        assert await client.status() in REFUSALS | {200}


KINDS: list[Callable[[int, random.Random], Coroutine[Any, Any, None]]] = [
    streaming,
    waiting,
    writing,
    half_open,
    never_reading,
    slow,
    breaking,
    polite,
]


async def storm(port: int, num_clients: int) -> None:
    """All kinds of clients at once; none may be left without an end."""
    luck = random.Random(0)
    async with asyncio.timeout(60 + num_clients / 2):
        await asyncio.gather(
            *(KINDS[number % len(KINDS)](port, random.Random(luck.random())) for number in range(num_clients))
        )


@pytest.mark.parametrize("num_clients", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_a_storm_leaves_nothing_behind(tiny_folders: Mapping[str, Path], tmp_path: Path, num_clients: int) -> None:
    with moody(tiny_folders["absorbing"], tmp_path / "log") as server:
        expected = server.answer()
        asyncio.run(storm(server.port, len(KINDS)))  # whatever is made once is made now
        wait_until(lambda: server.load() == (0, 0) and server.answer() == expected, timeout_s=30)
        wait_until(lambda: server.descriptors <= 64, timeout_s=10)
        descriptors, threads, memory = server.descriptors, server.status("Threads"), server.status("VmRSS")
        asyncio.run(storm(server.port, num_clients))
        wait_until(lambda: server.load() == (0, 0), timeout_s=30)
        wait_until(lambda: server.descriptors <= descriptors)
        assert server.answer() == expected
        assert server.status("Threads") <= threads
        assert server.status("VmRSS") < memory + 64_000
        assert server.log.stat().st_size < 5000 * num_clients
        assert httpx2.get(server.url + "/health").status_code == httpx2.get(server.url + "/ready").status_code == 200


def test_idle_connections_leave_descriptors_for_the_probes(tiny_folders: Mapping[str, Path], tmp_path: Path) -> None:
    flags = ["--header_timeout_s", "60", "--keep_alive_s", "60"]
    with (
        moody(tiny_folders["absorbing"], tmp_path / "log", 256, flags) as server,
        contextlib.ExitStack() as stack,
    ):
        # Whom the line of those not yet accepted has no place for asks again after a second: so not one after another.
        with ThreadPoolExecutor(32) as pool:
            idle = list(
                pool.map(lambda _: socket.create_connection(("127.0.0.1", server.port), timeout=30), range(400))
            )
        for number, connection in enumerate(idle):
            stack.enter_context(connection)
            if number % 2:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        for path in ("/health", "/ready", "/models"):
            assert httpx2.get(server.url + path, timeout=10).status_code == 200
        assert len(server.answer()) == 2
        assert server.descriptors < 250
        assert "Too many open files" not in server.log.read_text() and server.log.stat().st_size < 100_000
