"""Clients by address, each with one request after the other, who come again when they are told to."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2


@dataclass
class Visit:
    """One request until it was served: when it was first sent and answered at last, and each time that it was told to wait.

    refused: (when, seconds that it was told). Times are seconds on one clock.
    """

    sent: float
    done: float = float("nan")
    status: int = 0
    refused: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.done - self.sent


class Crowd:
    """Connections from addresses of the loopback, 127.0.0.1 and up, so that a server sees a client in each."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: dict[int, httpx2.AsyncClient] = {}

    def client(self, number: int) -> httpx2.AsyncClient:
        """The client at 127.0.0.`number`."""
        if number not in self._clients:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
            transport = httpx2.AsyncHTTPTransport(local_address=f"127.0.0.{number}", limits=limits)
            self._clients[number] = httpx2.AsyncClient(base_url=self._url, timeout=None, transport=transport)
        return self._clients[number]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def visit(self, number: int, path: str, body: dict[str, Any]) -> Visit:
        """One request of a client, sent again after `Retry-After` as long as it is refused."""
        visit = Visit(time.perf_counter())
        while True:
            response = await self.client(number).post(path, json=body | {"stream": False})
            visit.done, visit.status = time.perf_counter(), response.status_code
            if response.status_code != 429:
                return visit
            wait = float(response.headers["Retry-After"])
            visit.refused.append((visit.done, wait))
            await asyncio.sleep(wait)

    async def again(self, number: int, path: str, body: dict[str, Any]) -> None:
        """Request after request, until it is cancelled."""
        while True:
            await self.visit(number, path, body)


@contextmanager
def pinned(cores: Iterable[int]) -> Iterator[None]:
    """This thread, and the processes that it starts, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
