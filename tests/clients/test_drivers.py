"""Asyncio's own ways to leave: a task that is cancelled, a time that is up, a loop that is broken off; and threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping

import pytest

from tests.clients.scripted_server import EVENTS, sse
from tests.live_server import LiveServer, faked, serving, wait_until
from token_diffusion.checkpoint import Checkpoint
from token_diffusion_client import AsyncClient, Client, DoneEvent, StartEvent

pytest_plugins = ["tests.server_fixtures"]


@pytest.fixture(scope="module")
def slow(tiny: Mapping[str, Checkpoint]) -> Iterator[LiveServer]:
    """A server on which a long request takes many seconds."""
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.02)
    with serving({"absorbing": checkpoint}) as server:
        yield server


@pytest.mark.parametrize("way", ["timeout", "cancel", "break", "many"])
def test_however_a_task_leaves_the_server_is_free(slow: LiveServer, way: str) -> None:
    async def read(client: AsyncClient, started: asyncio.Event) -> None:
        async for _ in client.stream_sample(seq_len=64, num_inference_steps=1000):
            started.set()
            if way == "break":
                break

    async def leave() -> None:
        started = asyncio.Event()
        async with AsyncClient(slow.url) as client:
            if way == "timeout":
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await read(client, started)
            elif way == "many":
                task = asyncio.create_task(client.sample_many([{"seq_len": 64, "num_inference_steps": 1000}] * 3))
                while (await client.info())["load"]["rows"] < 3:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                task = asyncio.create_task(read(client, started))  # type: ignore[arg-type]
                await started.wait()
                if way == "cancel":
                    task.cancel()
                await asyncio.wait([task])
            await asyncio.to_thread(wait_until, lambda: slow.engine.idle, 3)

    asyncio.run(leave())


def test_one_loop_reads_many_streams_at_once(slow: LiveServer) -> None:
    async def read(client: AsyncClient, seed: int) -> list[str]:
        events = [event async for event in client.stream_sample(seq_len=16, num_inference_steps=4, seed=seed)]
        assert isinstance(events[0], StartEvent) and isinstance(events[-1], DoneEvent)
        return [sample.text for sample in events[-1].samples]

    async def together() -> list[list[str]]:
        async with AsyncClient(slow.url) as client:
            return await asyncio.gather(*(read(client, seed) for seed in range(5)))

    found = asyncio.run(together())
    with Client(slow.url) as client:
        alone = [client.sample(seq_len=16, num_inference_steps=4, seed=seed).samples[0].text for seed in range(5)]
    assert [texts[0] for texts in found] == alone


def test_as_many_streams_as_are_asked_for() -> None:
    """More than the pool of an HTTP client holds if it is not told otherwise, which is 100."""
    answering: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + sse(EVENTS[:1]))
        await writer.drain()
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async def together() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, AsyncClient(url, timeout=20) as client:
            streams = [client.attach(str(number)) for number in range(101)]
            assert all([isinstance(await anext(stream), StartEvent) for stream in streams])
            for stream in streams:
                await stream.aclose()
            await asyncio.gather(*filter(None, answering))

    asyncio.run(together())


def test_threads_share_a_client(slow: LiveServer) -> None:
    found: dict[int, list[int]] = {}
    with Client(slow.url) as client:

        def read(seed: int) -> None:
            *_, done = client.stream_sample(seq_len=16, num_inference_steps=4, seed=seed)
            assert isinstance(done, DoneEvent)
            found[seed] = done.samples[0].tokens

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert [found[seed] for seed in range(4)] == [
            client.sample(seq_len=16, num_inference_steps=4, seed=seed).samples[0].tokens for seed in range(4)
        ]
