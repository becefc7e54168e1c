"""Those who do what a conversation asks for: with blocking calls and threads, or awaiting and with tasks."""

from __future__ import annotations

import asyncio
import queue
import threading
from asyncio import sleep as sleep_awaiting
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from functools import partial
from time import sleep
from typing import Any, TypeVar

import httpx2

from .protocol.effects import Effect, Emit, Finished, Next, Open, Pause, Send, Spawn, Steps, Story, told
from .protocol.methods import Awaiting, Blocking

T = TypeVar("T")

MAX_EVENT_BYTES = 64 * 2**20
"""Largest event that is read: `done` holds text, tokens and step map of all samples, and may pass httpx2's 1 MiB."""


class Driver(Blocking):
    """Does one thing after the other; threads may share it."""

    def __init__(self, **options: Any) -> None:
        self._http = httpx2.Client(**options)
        self._stories: set[Story[Any]] = set()

    def _close(self) -> None:
        for story in list(self._stories):
            self._call(story.leave())
        self._http.close()

    def _call(self, steps: Steps[T]) -> T:
        with closing(self._play(told(steps))) as played:
            value: T = next(played)
            return value

    def _stream(self, story: Story[Any]) -> Generator[Any]:
        self._stories.add(story)
        try:
            yield from self._play(story.events())
        finally:
            self._stories.discard(story)
            self._call(story.leave())

    def _play(self, steps: Steps[None]) -> Generator[Any]:
        """The values that `steps` emit."""
        with closing(steps), _Hands(self, self._http) as hands:
            advance: Callable[[], Effect] = steps.__next__
            while True:
                try:
                    effect = advance()
                except StopIteration:
                    return
                advance = steps.__next__
                if isinstance(effect, Emit):
                    yield effect.value
                    continue
                try:
                    advance = partial(steps.send, hands.do(effect))
                except Exception as error:
                    advance = partial(steps.throw, error)


class _Hands:
    """What one conversation has open: at most one stream, and the stories beside it."""

    def __init__(self, driver: Driver, http: httpx2.Client) -> None:
        self._driver, self._http = driver, http
        self._connection = ExitStack()
        self._messages: Iterator[httpx2.ServerSentEvent] = iter(())
        self._beside: dict[int, Story[Any]] = {}
        self._finished: queue.SimpleQueue[tuple[int, Any, Exception | None]] = queue.SimpleQueue()

    def __enter__(self) -> _Hands:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        for story in list(self._beside.values()):
            self._driver._call(story.leave())

    def do(self, effect: Effect) -> Any:
        match effect:
            case Next():
                return next(self._messages, None)
            case Open():
                return self._open(effect)
            case Send():
                return self._http.request(**_arguments(effect))
            case Pause():
                return sleep(effect.seconds)
            case Spawn():
                self._beside[effect.number] = effect.story
                # A daemon: the program need not wait for one whose story has been left.
                return threading.Thread(
                    target=self._tell, args=(effect,), name=f"many-{effect.number}", daemon=True
                ).start()
            case Finished():
                number, value, error = self._finished.get()
                del self._beside[number]
                return number, value, error
            case _:
                raise AssertionError(effect)

    def _open(self, effect: Open) -> httpx2.Response:
        self._connection.close()
        source = self._connection.enter_context(self._http.sse(**_arguments(effect), max_event_size=MAX_EVENT_BYTES))
        if not source.response.is_success:
            source.response.read()
            self._connection.close()
        self._messages = iter(source)
        return source.response

    def _tell(self, effect: Spawn) -> None:
        value = None
        try:
            for emitted in self._driver._stream(effect.story):
                value = emitted
        except Exception as error:
            self._finished.put((effect.number, None, error))
        else:
            self._finished.put((effect.number, value, None))


class AsyncDriver(Awaiting):
    """Does the same in asyncio's event loop."""

    def __init__(self, **options: Any) -> None:
        self._http = httpx2.AsyncClient(**options)
        self._stories: set[Story[Any]] = set()

    async def _close(self) -> None:
        for story in list(self._stories):
            await self._call(story.leave())
        await self._http.aclose()

    async def _call(self, steps: Steps[T]) -> T:
        async with aclosing(self._play(told(steps))) as played:
            value: T = await anext(played)
            return value

    async def _stream(self, story: Story[Any]) -> AsyncGenerator[Any]:
        self._stories.add(story)
        try:
            async with aclosing(self._play(story.events())) as played:
                async for value in played:
                    yield value
        finally:
            self._stories.discard(story)
            await self._call(story.leave())

    async def _play(self, steps: Steps[None]) -> AsyncGenerator[Any]:
        """The values that `steps` emit."""
        with closing(steps):
            async with _AsyncHands(self, self._http) as hands:
                advance: Callable[[], Effect] = steps.__next__
                while True:
                    try:
                        effect = advance()
                    except StopIteration:
                        return
                    advance = steps.__next__
                    if isinstance(effect, Emit):
                        yield effect.value
                        continue
                    try:
                        advance = partial(steps.send, await hands.do(effect))
                    except Exception as error:
                        advance = partial(steps.throw, error)


class _AsyncHands:
    """As `_Hands`, with tasks in place of threads."""

    def __init__(self, driver: AsyncDriver, http: httpx2.AsyncClient) -> None:
        self._driver, self._http = driver, http
        self._connection = AsyncExitStack()
        self._messages: AsyncIterator[httpx2.ServerSentEvent] | None = None
        self._beside: dict[int, asyncio.Task[None]] = {}
        self._finished: asyncio.Queue[tuple[int, Any, Exception | None]] = asyncio.Queue()

    async def __aenter__(self) -> _AsyncHands:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._connection.aclose()
        for task in self._beside.values():
            task.cancel()
        await asyncio.gather(*self._beside.values(), return_exceptions=True)

    async def do(self, effect: Effect) -> Any:
        match effect:
            case Next():
                return None if self._messages is None else await anext(self._messages, None)
            case Open():
                return await self._open(effect)
            case Send():
                return await self._http.request(**_arguments(effect))
            case Pause():
                return await sleep_awaiting(effect.seconds)
            case Spawn():
                self._beside[effect.number] = asyncio.create_task(self._tell(effect))
                return None
            case Finished():
                number, value, error = await self._finished.get()
                del self._beside[number]
                return number, value, error
            case _:
                raise AssertionError(effect)

    async def _open(self, effect: Open) -> httpx2.Response:
        await self._connection.aclose()
        opening = self._http.sse(**_arguments(effect), max_event_size=MAX_EVENT_BYTES)
        source = await self._connection.enter_async_context(opening)
        if not source.response.is_success:
            await source.response.aread()
            await self._connection.aclose()
        self._messages = aiter(source)
        return source.response

    async def _tell(self, effect: Spawn) -> None:
        value = None
        try:
            async for emitted in self._driver._stream(effect.story):
                value = emitted
        except Exception as error:
            self._finished.put_nowait((effect.number, None, error))
        else:
            self._finished.put_nowait((effect.number, value, None))


def _arguments(effect: Send | Open) -> dict[str, Any]:
    """How httpx2 calls what a request says."""
    timeout_s = effect.timeout_s if isinstance(effect, Send) else None
    timeout = {} if timeout_s is None else {"timeout": timeout_s}
    return {"url": effect.path, "method": effect.method, "json": effect.body, "headers": effect.headers, **timeout}
