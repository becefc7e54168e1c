"""Both clients behind one face, so that one test tries both: `AsyncClient` is driven by an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, Self, cast

import pytest

import token_diffusion_client.drivers
from token_diffusion_client import AsyncClient, Client


class Awaited:
    """An `AsyncClient` that is called as a `Client` is."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = AsyncClient(*arguments, **options)
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if not self._loop.is_closed():
            self._run(self._client.close())
            self._run(self._loop.shutdown_asyncgens())
            self._loop.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def called(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            return self._each(result) if isinstance(result, AsyncGenerator) else self._run(result)

        return called

    def _each(self, events: AsyncGenerator[Any]) -> Iterator[Any]:
        try:
            while (event := self._run(_next(events))) is not None:
                yield event
        finally:
            if not self._loop.is_closed():
                self._run(events.aclose())

    def _run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(steps)


async def _next(events: AsyncGenerator[Any]) -> Any:
    return await anext(events, None)


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> type[Client]:
    """Makes a client; each test that asks for it is tried with both."""
    return cast("type[Client]", request.param)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before each try, which take no time."""
    taken: list[float] = []

    async def sleep(seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr(token_diffusion_client.drivers, "sleep", taken.append)
    monkeypatch.setattr(token_diffusion_client.drivers, "sleep_awaiting", sleep)
    return taken
