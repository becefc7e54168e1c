from __future__ import annotations

import asyncio
import math
import random
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from server.errors import internal, shutdown
from server.work.stream import News, Place, Reader, Stream, Telling
from token_diffusion.engine.batch import BlockEnd, Result, Update

RESULT = Result(tokens=[[7]], step_map=[[1]], nfe=1, forwards_skipped=0, prompt_tokens=0, completion_tokens=1)

INITIAL = [[0] * 8, [0] * 8]


def update(
    step: int, changes: Iterable[tuple[int, int, int]] = (), *, block: int | None = None, result: Result | None = None
) -> Update:
    blocks = [] if block is None else [BlockEnd(block, block, block + 1)]
    return Update("key", step, 1 - step / 100, step, list(changes), blocks, result)


def begun(stream_every: int = 1) -> Stream:
    stream = Stream(Telling(stream_every))
    stream.begin(INITIAL)
    return stream


async def read(reader: Reader) -> News:
    news = await reader.read(5)
    assert news is not None
    return news


async def read_on(stream: Stream) -> Reader:
    """A reader who has been told the beginning."""
    reader = stream.attach()
    assert (await read(reader)).begins
    return reader


def test_the_initial_state_comes_first_and_alone() -> None:
    async def main() -> None:
        stream = Stream()
        reader = stream.attach()
        stream.begin([[1, 2]])
        stream.publish(update(1, [(0, 0, 7)]))
        first, second = await read(reader), await read(reader)
        assert first.begins and first.tokens.tolist() == [[1, 2]] and first.num_updates == 0
        assert not second.begins and second.changes == [(0, 0, 7)] and second.tokens.tolist() == [[7, 2]]

    asyncio.run(main())


def test_unread_updates_merge_and_the_last_change_of_a_position_counts() -> None:
    async def main() -> None:
        stream = begun()
        reader = await read_on(stream)
        stream.publish(update(1, [(0, 0, 7), (0, 1, 8)], block=0))
        stream.publish(update(2, [(0, 0, 9)]))
        stream.publish(update(3, [(1, 0, 5)], block=1, result=RESULT))
        news = await read(reader)
        assert news.changes == [(0, 0, 9), (0, 1, 8), (1, 0, 5)]
        assert (news.num_updates, news.step, news.nfe, news.t) == (3, 3, 3, pytest.approx(0.97))
        assert [block.block for block in news.blocks] == [0, 1]
        assert news.result is RESULT

    asyncio.run(main())


def test_logprobs_merge_as_the_changes_do() -> None:
    async def main() -> None:
        stream = begun()
        reader = await read_on(stream)
        stream.publish(replace(update(1, [(0, 0, 7), (0, 1, 8)]), logprobs=[-0.5, None]))
        stream.publish(replace(update(2, [(0, 0, 9)]), logprobs=[-2.0]))
        stream.publish(replace(update(3), logprobs=[]))
        news = await read(reader)
        assert news.changes == [(0, 0, 9), (0, 1, 8)] and news.changed_logprobs is not None
        assert news.changed_logprobs[0] == -2.0 and math.isnan(news.changed_logprobs[1])
        assert news.logprobs is not None and np.isnan(news.logprobs).sum() == 15
        stream.publish(replace(update(4, [(1, 2, 3)], result=RESULT), logprobs=[-1.0]))
        assert news.logprobs[1, 2] != -1, "what was told stays as it was"
        assert (await read(reader)).changed_logprobs == [-1.0]
        late = stream.attach(Place(3))
        assert (await read(late)).changed_logprobs == [-1.0]
        assert (await read(await read_on(begun_and_told()))).changed_logprobs is None, "where none are asked for"

    asyncio.run(main())


def begun_and_told() -> Stream:
    stream = begun()
    stream.publish(update(1, [(0, 0, 7)]))
    return stream


def test_nothing_unread_is_none_after_the_timeout_and_nothing_is_lost_by_it() -> None:
    async def main() -> None:
        stream = begun()
        reader = await read_on(stream)
        assert await reader.read(0.01) is None
        stream.publish(update(1))
        assert (await read(reader)).step == 1
        assert await reader.read(0.01) is None

    asyncio.run(main())


def test_stream_every_merges_that_many_but_holds_back_neither_blocks_nor_the_end() -> None:
    async def main() -> None:
        stream = begun(stream_every=3)
        reader = stream.attach()
        stream.publish(update(1))
        assert (await read(reader)).begins
        assert await reader.read(0.01) is None
        stream.publish(update(2))
        assert await reader.read(0.01) is None
        stream.publish(update(3))
        assert (await read(reader)).num_updates == 3
        stream.publish(update(4, block=0))
        assert (await read(reader)).num_updates == 1
        stream.publish(update(5, result=RESULT))
        assert (await read(reader)).result is RESULT

    asyncio.run(main())


def test_a_reader_of_the_end_alone_is_not_woken_before() -> None:
    async def main() -> None:
        stream = begun()
        reader = stream.attach(end_alone=True)
        for step in range(1, 5):
            stream.publish(update(step, block=step))
        assert await reader.read(0.01) is None
        stream.publish(update(5, result=RESULT))
        news = await read(reader)
        assert news.result is RESULT and (news.num_updates, news.blocks) == (0, [])

    asyncio.run(main())


def test_the_first_end_counts() -> None:
    async def main() -> None:
        stream = begun()
        error = shutdown()
        stream.fail(error)
        stream.fail(internal())
        stream.publish(update(1, result=RESULT))
        news = await read(await read_on(stream))
        assert news.error is error and news.result is None
        finished = begun()
        finished.publish(update(1, result=RESULT))
        finished.fail(internal())
        news = await read(await read_on(finished))
        assert news.result is RESULT and news.error is None

    asyncio.run(main())


def test_an_end_before_the_beginning_is_all_there_is_to_tell() -> None:
    async def main() -> None:
        stream = Stream()
        reader = stream.attach()
        stream.fail(shutdown())
        news = await read(reader)
        assert news.error is not None and not news.begins and news.num_updates == 0

    asyncio.run(main())


@pytest.mark.parametrize("read_so_far", range(6))
def test_whoever_comes_in_the_middle_gets_exactly_what_is_new_to_them(read_so_far: int) -> None:
    """From each place, the first one and the last one too."""
    changes = [[(0, 0, 1), (0, 1, 2)], [(0, 0, 3)], [(1, 7, 4)], [(0, 1, 5), (0, 0, 3)], []]
    places = [Place(0, 0), Place(1, 0), Place(2, 1), Place(3, 1), Place(4, 2), Place(5, 2)]

    async def main() -> None:
        stream = begun()
        for step, changed in enumerate(changes, 1):
            stream.publish(update(step, changed, block=step // 2 - 1 if step % 2 == 0 else None))
        assert stream.place == places[-1]
        reader = stream.attach(places[read_so_far])
        stream.publish(update(6, result=RESULT))
        news = await read(reader)
        new = {(sample, position): token for changed in changes[read_so_far:] for sample, position, token in changed}
        assert {(sample, position): token for sample, position, token in news.changes} == new
        assert (news.before, news.after) == (places[read_so_far], Place(6, 2))
        assert [block.block for block in news.blocks] == list(range(places[read_so_far].blocks, 2))
        assert news.tokens.tolist() == [[3, 5, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 4]]

    asyncio.run(main())


def test_who_has_read_all_of_a_story_that_is_over_gets_its_end_again() -> None:
    async def main() -> None:
        stream = begun()
        stream.publish(update(1, [(0, 0, 7)], result=RESULT))
        for _ in range(2):
            reader = stream.attach(stream.place)
            news = await read(reader)
            assert news.result is RESULT and news.changes == []
            stream.detach(reader)

    asyncio.run(main())


def test_a_slow_reader_costs_a_fast_one_nothing_and_no_memory() -> None:
    async def main() -> None:
        stream = begun()
        fast, slow = await read_on(stream), await read_on(stream)
        rested = sum(map(sys.getsizeof, vars(slow).values()))
        for step in range(1, 200):
            stream.publish(update(step, [(step % 2, step % 8, step)]))
            news = await read(fast)
            assert news.changes == [(step % 2, step % 8, step)]
        assert sum(map(sys.getsizeof, vars(slow).values())) == rested
        late = await read(slow)
        assert late.num_updates == 199 and len(late.changes) == 8
        assert (late.tokens == news.tokens).all()

    asyncio.run(main())


def test_who_has_left_is_woken_no_more() -> None:
    async def main() -> None:
        stream = begun()
        leaver, other = await read_on(stream), await read_on(stream)
        stream.detach(leaver)
        assert stream.num_readers == 1
        stream.publish(update(1))
        assert (await read(other)).step == 1
        assert await leaver.read(0.01) is None

    asyncio.run(main())


def test_the_reader_is_woken_at_most_once_for_what_it_has_not_read() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        stream = begun()
        reader = await read_on(stream)
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
        await read(reader)
        stream.publish(update(100))
        assert wakes == 2

    asyncio.run(main())


@pytest.mark.parametrize("pauses_s", [[0.0], [0.003], [0.0, 0.003, 0.001]])
def test_a_thread_that_publishes_and_its_readers_agree_on_the_end(pauses_s: list[float]) -> None:
    generator = random.Random(0)
    expected: dict[tuple[int, int], int] = {}
    updates = []
    for step in range(1, 2001):
        changes = [(generator.randrange(2), generator.randrange(8), generator.randrange(100)) for _ in range(3)]
        expected.update({(sample, position): token for sample, position, token in changes})
        updates.append(update(step, changes, block=step if step % 500 == 0 else None))
    updates.append(update(2001, result=RESULT))

    async def follow(stream: Stream, pause_s: float) -> None:
        reader = await read_on(stream)
        seen: dict[tuple[int, int], int] = {}
        blocks: list[int] = []
        total = 0
        while True:
            news = await read(reader)
            for sample, position, token in news.changes:
                seen[sample, position] = token
            assert all(news.tokens[cell] == token for cell, token in seen.items())
            blocks += [block.block for block in news.blocks]
            total += news.num_updates
            if news.result is not None:
                break
            await asyncio.sleep(pause_s)
        assert seen == expected
        assert blocks == [500, 1000, 1500, 2000]
        assert total == 2001

    async def main() -> None:
        stream = begun()

        def publish_all() -> None:
            for item in updates:
                stream.publish(item)

        thread = threading.Thread(target=publish_all)
        thread.start()
        await asyncio.gather(*(follow(stream, pause_s) for pause_s in pauses_s))
        thread.join()

    asyncio.run(main())


def test_publishing_after_the_loop_has_closed_is_harmless() -> None:
    async def make() -> Stream:
        stream = begun()
        stream.attach()
        return stream

    stream = asyncio.run(make())
    stream.publish(update(1, result=RESULT))


def test_updates_that_find_the_reader_late_are_counted() -> None:
    async def main() -> None:
        stream = Stream()
        stream.begin([[1]])
        reader = stream.attach()
        await read(reader)
        for step in (1, 2, 3):
            stream.publish(update(step))
        await read(reader)
        assert stream.num_merged == 2
        stream.publish(update(4))
        await read(reader)
        assert stream.num_merged == 2
        wanted = Stream(Telling(stream_every=3))
        wanted.begin([[1]])
        reader = wanted.attach()
        await read(reader)
        for step in (1, 2, 3):
            wanted.publish(update(step))
        await read(reader)
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
