"""The thread of text: one piece at a time, and whose turn it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from server.owners.owner import Owner
from server.telemetry.metrics import Metrics
from server.work.text import URGENT_IN_A_ROW, TextThread

GREEDY, SHY, THIRD = (Owner(name, name) for name in ("greedy", "shy", "third"))


@pytest.fixture
def text() -> Iterator[TextThread]:
    with TextThread(Metrics()) as thread:
        yield thread


async def order(text: TextThread, *pieces: tuple[str, Owner | None]) -> list[str]:
    """The names of `pieces` in the order in which they were done, all having come while another was."""
    gate, done = threading.Event(), list[str]()
    first = asyncio.create_task(text.run(lambda: gate.wait(10)))
    await asyncio.sleep(0)
    tasks = [asyncio.create_task(text.run(lambda name=name: done.append(name), owner)) for name, owner in pieces]  # type: ignore[misc]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *tasks)
    return done


def run(awaitable: Callable[[], Awaitable[object]]) -> object:
    async def main() -> object:
        return await awaitable()

    return asyncio.run(main())


def test_it_returns_and_raises_what_the_work_does(text: TextThread) -> None:
    async def both() -> str:
        with pytest.raises(ZeroDivisionError):
            await text.run(lambda: 1 // 0, SHY)
        return await text.run(lambda: threading.current_thread().name, SHY)

    assert str(run(both)).startswith("text")


def test_a_client_with_one_piece_waits_for_one_of_each_other(text: TextThread) -> None:
    pieces = [(f"greedy {number}", GREEDY) for number in range(4)] + [("shy", SHY), ("third", THIRD)]
    done = run(lambda: order(text, *pieces))
    assert done == ["greedy 0", "shy", "third", "greedy 1", "greedy 2", "greedy 3"]


def test_what_runs_goes_first_but_not_for_ever(text: TextThread) -> None:
    pieces = [("admission", SHY), *[(f"running {number}", None) for number in range(URGENT_IN_A_ROW + 2)]]
    done = run(lambda: order(text, *pieces))
    assert isinstance(done, list)
    assert done[0] == "running 0" and done.index("admission") in (URGENT_IN_A_ROW - 1, URGENT_IN_A_ROW)


def test_who_gives_up_is_not_waited_for(text: TextThread) -> None:
    done: list[str] = []

    async def impatient() -> None:
        gate = threading.Event()
        first = asyncio.create_task(text.run(lambda: gate.wait(10), GREEDY))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await text.run(lambda: done.append("given up"), GREEDY)
        gate.set()
        await first
        await text.run(lambda: done.append("next"), SHY)

    run(impatient)
    assert done == ["next"]


def test_a_thousand_pieces_are_each_done_once(text: TextThread) -> None:
    done: list[int] = []

    async def crowd() -> None:
        owners = [None, GREEDY, SHY, THIRD]
        work = [text.run(lambda number=number: done.append(number), owners[number % 4]) for number in range(1000)]  # type: ignore[misc]
        await asyncio.gather(*work)

    run(crowd)
    assert sorted(done) == list(range(1000))
    assert not text._urgent and not text._waiting
