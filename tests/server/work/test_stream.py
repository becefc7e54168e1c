from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterable

import pytest

from server.errors import internal, shutdown
from server.work.stream import News, Stream
from token_diffusion.engine.batch import BlockEnd, Result, Update

RESULT = Result(tokens=[[7]], step_map=[[1]], nfe=1, forwards_skipped=0, prompt_tokens=0, completion_tokens=1)


def update(
    step: int, changes: Iterable[tuple[int, int, int]] = (), *, block: int | None = None, result: Result | None = None
) -> Update:
    blocks = [] if block is None else [BlockEnd(block, block, block + 1)]
    return Update("key", step, 1 - step / 100, step, list(changes), blocks, result)


async def read(stream: Stream) -> News:
    news = await stream.read(5)
    assert news is not None
    return news


def test_the_initial_state_comes_first_and_alone() -> None:
    async def main() -> None:
        stream = Stream()
        stream.begin([[1, 2]])
        stream.publish(update(1, [(0, 0, 7)]))
        first, second = await read(stream), await read(stream)
        assert first == News(tokens=[[1, 2]])
        assert second.tokens is None and second.changes == {(0, 0): 7}

    asyncio.run(main())


def test_unread_updates_merge_and_the_last_change_of_a_position_counts() -> None:
    async def main() -> None:
        stream = Stream()
        stream.publish(update(1, [(0, 0, 7), (0, 1, 8)], block=0))
        stream.publish(update(2, [(0, 0, 9)]))
        stream.publish(update(3, [(1, 0, 5)], block=1, result=RESULT))
        news = await read(stream)
        assert news.changes == {(0, 0): 9, (0, 1): 8, (1, 0): 5}
        assert (news.num_updates, news.step, news.nfe, news.t) == (3, 3, 3, pytest.approx(0.97))
        assert [block.block for block in news.blocks] == [0, 1]
        assert news.result is RESULT

    asyncio.run(main())


def test_nothing_unread_is_none_after_the_timeout_and_nothing_is_lost_by_it() -> None:
    async def main() -> None:
        stream = Stream()
        assert await stream.read(0.01) is None
        stream.publish(update(1))
        assert (await read(stream)).step == 1
        assert await stream.read(0.01) is None

    asyncio.run(main())


def test_stream_every_merges_that_many_but_holds_back_neither_blocks_nor_the_end() -> None:
    async def main() -> None:
        stream = Stream(stream_every=3)
        stream.begin([[0]])
        stream.publish(update(1))
        assert (await read(stream)).tokens == [[0]]
        assert await stream.read(0.01) is None
        stream.publish(update(2))
        assert await stream.read(0.01) is None
        stream.publish(update(3))
        assert (await read(stream)).num_updates == 3
        stream.publish(update(4, block=0))
        assert (await read(stream)).num_updates == 1
        stream.publish(update(5, result=RESULT))
        assert (await read(stream)).result is RESULT

    asyncio.run(main())


def test_a_reader_of_the_end_alone_is_not_woken_before() -> None:
    async def main() -> None:
        stream = Stream(stream_every=None)
        for step in range(1, 5):
            stream.publish(update(step, block=step))
        assert await stream.read(0.01) is None
        stream.publish(update(5, result=RESULT))
        news = await read(stream)
        assert news.num_updates == 5 and len(news.blocks) == 4

    asyncio.run(main())


def test_the_first_end_counts() -> None:
    async def main() -> None:
        stream = Stream()
        error = shutdown()
        stream.fail(error)
        stream.fail(internal())
        stream.publish(update(1, result=RESULT))
        news = await read(stream)
        assert news.error is error and news.result is None
        finished = Stream()
        finished.publish(update(1, result=RESULT))
        finished.fail(internal())
        news = await read(finished)
        assert news.result is RESULT and news.error is None

    asyncio.run(main())


def test_the_reader_is_woken_at_most_once_for_what_it_has_not_read() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        stream = Stream()
        wakes = 0
        call_soon_threadsafe = loop.call_soon_threadsafe

        def counted(callback, *arguments):  # type: ignore[no-untyped-def]
            nonlocal wakes
            wakes += 1
            return call_soon_threadsafe(callback, *arguments)

        loop.call_soon_threadsafe = counted  # type: ignore[assignment, method-assign]
        for step in range(1, 100):
            stream.publish(update(step))
        assert wakes == 1
        await read(stream)
        stream.publish(update(100))
        assert wakes == 2

    asyncio.run(main())


@pytest.mark.parametrize("pause_s", [0.0, 0.003])
def test_a_thread_that_publishes_and_a_slow_reader_agree_on_the_end(pause_s: float) -> None:
    generator = random.Random(0)
    expected: dict[tuple[int, int], int] = {}
    updates = []
    for step in range(1, 2001):
        changes = [(generator.randrange(2), generator.randrange(8), generator.randrange(100)) for _ in range(3)]
        expected.update({(sample, position): token for sample, position, token in changes})
        updates.append(update(step, changes, block=step if step % 500 == 0 else None))
    updates.append(update(2001, result=RESULT))

    async def main() -> tuple[dict[tuple[int, int], int], list[int], int]:
        stream = Stream()

        def publish_all() -> None:
            for item in updates:
                stream.publish(item)

        thread = threading.Thread(target=publish_all)
        thread.start()
        seen: dict[tuple[int, int], int] = {}
        blocks: list[int] = []
        total = 0
        while True:
            news = await read(stream)
            seen.update(news.changes)
            blocks += [block.block for block in news.blocks]
            total += news.num_updates
            if news.result is not None:
                thread.join()
                return seen, blocks, total
            await asyncio.sleep(pause_s)

    seen, blocks, total = asyncio.run(main())
    assert seen == expected
    assert blocks == [500, 1000, 1500, 2000]
    assert total == 2001


def test_publishing_after_the_loop_has_closed_is_harmless() -> None:
    async def make() -> Stream:
        return Stream()

    stream = asyncio.run(make())
    stream.publish(update(1, result=RESULT))


def test_updates_that_find_the_reader_late_are_counted() -> None:
    async def main() -> None:
        stream = Stream()
        stream.begin([[1]])
        await read(stream)
        for step in (1, 2, 3):
            stream.publish(update(step))
        assert stream.num_merged == 2
        await read(stream)
        stream.publish(update(4))
        assert stream.num_merged == 2
        wanted = Stream(stream_every=3)
        for step in (1, 2, 3):
            wanted.publish(update(step))
        assert wanted.num_merged == 0, "its reader has asked for them in threes"

    asyncio.run(main())


def test_a_stream_knows_how_it_ended() -> None:
    async def main() -> None:
        done, failed = Stream(), Stream()
        done.publish(update(1))
        assert done.outcome is None
        done.publish(update(2, result=RESULT))
        failed.fail(shutdown())
        for stream in (done, failed):
            stream.fail(internal())
        assert (done.outcome, failed.outcome) == ("done", "shutdown")

    asyncio.run(main())
