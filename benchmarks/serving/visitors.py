"""Those who visit a server during a soak: readers, people who leave, slow readers, crowds, and senders of nonsense.

Each visit either goes as the wire format promises or adds a line to `Log.faults`. Events are parsed by `clients`, which checks
every field, and each stream is replayed: `start` and all changes must lead to the tokens of `done`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from token_diffusion_client import Canvas, DoneEvent, Event, InvalidEvent, SampleError, StartEvent
from token_diffusion_client.drivers import MAX_EVENT_BYTES
from token_diffusion_client.protocol.events import parse_error, parse_event

from .traffic import Ask

Tokens = list[list[int]]

OVERLOADED = 429

INVALID: tuple[tuple[str, Any], ...] = (
    ("/sample", {"top_p": 1.5}),
    ("/sample", {"seq_len": 0}),
    ("/sample", {"seed": -1}),
    ("/sample", {"unknown": 1}),
    ("/sample", {"seq_len": "32"}),
    ("/sample", {"model": "nobody"}),
    ("/sample", {"num_inference_steps": 10**9}),
    ("/sample/block", {"block_size": 0}),
    ("/sample/hybrid", {"temperature": -1}),
    ("/sample", []),
    ("/nowhere", {}),
)


@dataclass
class Log:
    """What has happened so far."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)

    def fault(self, line: str) -> None:
        self.counts["faults"] += 1
        if len(self.faults) < 20:
            self.faults.append(line)


@dataclass
class Visitors:
    """All kinds of visits to one server; `asks` says what is asked, `log` what came of it."""

    client: httpx2.AsyncClient
    asks: Callable[[], Ask]
    log: Log
    random: random.Random

    async def events(self, ask: Ask) -> AsyncGenerator[Event]:
        """The events of a stream. Raises SampleError for an HTTP error or an `error` event."""
        async with self.client.sse(ask.path, method="POST", json=ask.body, max_event_size=MAX_EVENT_BYTES) as source:
            if source.response.status_code != 200:
                await source.response.aread()
                error = parse_error(source.response.text)
                error.code = source.response.status_code
                raise error
            async for message in source:
                if (event := parse_event(message.event, message.data)) is not None:
                    yield event

    async def read(self, ask: Ask, pause_s: float = 0.0) -> Tokens | None:
        """A stream to its end, `pause_s` between events; its tokens, or None if the server was full."""
        canvas, last = None, None
        try:
            async with contextlib.aclosing(self.events(ask)) as events:
                async for last in events:
                    if isinstance(last, StartEvent):
                        canvas = Canvas(last)
                    elif canvas is not None:
                        canvas.apply(last)
                    await asyncio.sleep(pause_s)
        except SampleError as error:
            if error.code == OVERLOADED:
                self.log.counts["rejected"] += 1
            elif error.type == "timeout":  # an honest end: the machine is slower than the visitors are many
                self.log.counts["timed out"] += 1
            else:
                self.log.fault(f"{ask.path} {ask.body}: {error.type}: {error}")
            return None
        except (InvalidEvent, httpx2.HTTPError) as error:
            self.log.fault(f"{ask.path} {ask.body}: {type(error).__name__}: {error}")
            return None
        if not isinstance(last, DoneEvent) or canvas is None:
            self.log.fault(f"{ask.path} {ask.body}: the stream ended without done or error")
            return None
        tokens = [sample.tokens for sample in last.samples]
        if canvas.tokens != tokens:
            self.log.fault(f"{ask.path} {ask.body}: the changes do not lead to done's tokens")
        self.log.counts["read"] += 1
        return tokens

    async def reader(self) -> None:
        """Reads a whole stream."""
        await self.read(self.asks())

    async def slow_reader(self) -> None:
        """Reads with pauses, so that states merge on the server."""
        await self.read(self.asks(), pause_s=self.random.uniform(0.05, 0.5))
        self.log.counts["read slowly"] += 1

    async def leaver(self) -> None:
        """Reads a few events and closes the connection."""
        seen, stop = 0, self.random.randrange(1, 6)
        with contextlib.suppress(SampleError):
            async with contextlib.aclosing(self.events(self.asks())) as events:
                async for _ in events:
                    seen += 1
                    if seen >= stop:
                        break
        self.log.counts["left in the middle"] += 1

    async def impatient(self) -> None:
        """Asks for an answer without a stream, and may hang up before it comes."""
        ask = self.asks()
        body = ask.body | {"stream": False}
        try:
            response = await asyncio.wait_for(self.client.post(ask.path, json=body), self.random.uniform(0.05, 5.0))
        except TimeoutError:
            self.log.counts["hung up"] += 1
            return
        self.log.counts["without a stream"] += 1
        if response.status_code not in (200, OVERLOADED):
            self.log.fault(f"{ask.path} {body}: HTTP {response.status_code}")

    async def nonsense(self) -> None:
        """Sends what must be refused, in the envelope of errors."""
        path, body = self.random.choice(INVALID)
        response = await self.client.post(path, json=body)
        self.log.counts["nonsense"] += 1
        try:
            parse_error(response.text)
        except InvalidEvent as error:
            self.log.fault(f"{path} {body}: {error}")
        if not 400 <= response.status_code < 500:
            self.log.fault(f"{path} {body}: HTTP {response.status_code}")

    async def crowd(self) -> None:
        """Many at once, more than there are rows for."""
        self.log.counts["crowds"] += 1
        await asyncio.gather(*(self.leaver() if index % 3 else self.reader() for index in range(48)))

    async def check_health(self) -> None:
        """GET /health must answer, and soon."""
        start = asyncio.get_running_loop().time()
        response = await self.client.get("/health")
        self.log.health_s.append(asyncio.get_running_loop().time() - start)
        if response.status_code != 200:
            self.log.fault(f"/health: HTTP {response.status_code}")


async def again(visit: Callable[[], Awaitable[None]], pause_s: float, end: float, log: Log) -> None:
    """The visit again and again until `end` on the loop's clock. A connection that breaks is a fault."""
    while asyncio.get_running_loop().time() < end:
        try:
            await visit()
        except (httpx2.HTTPError, InvalidEvent) as error:
            log.fault(f"{getattr(visit, '__name__', visit)}: {type(error).__name__}: {error}")
        await asyncio.sleep(pause_s)
