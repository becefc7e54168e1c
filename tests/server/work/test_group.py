"""Several jobs under one request: all or none, one deadline, one end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from server.api.admission import Service, submit_together
from server.errors import APIError
from server.owners.owner import Owner
from server.settings import Settings
from server.work.deadline import Deadline
from server.work.engine import Engine
from server.work.group import Group
from server.work.jobs import Job
from server.work.room import Bounds
from server.work.stream import Stream
from tests.live_server import faked, wait_until
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import OPEN

pytest_plugins = ["tests.server_fixtures"]

ALICE = Owner("key:alice", "alice")


@contextmanager
def running(checkpoint: Checkpoint, bounds: Bounds | None = None) -> Iterator[Engine]:
    engine = Engine({checkpoint.name: checkpoint}, bounds=bounds)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
        assert not engine.alive


def job(seed: int = 0, *, rows: int = 1, seq_len: int = 16, owner: Owner = ALICE) -> Job[SamplingParameters]:
    parameters = SamplingParameters(seq_len=seq_len, num_samples=rows, num_inference_steps=None, seed=seed)
    return Job("absorbing", [OPEN] * seq_len, parameters, Stream(), owner, rows * seq_len**2)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_each_part_gets_what_it_gets_alone(tiny: Mapping[str, Checkpoint]) -> None:
    async def main() -> None:
        with running(tiny["absorbing"]) as engine:
            deadline = Deadline.after(20)
            with Group(engine, [job(seed, rows=seed + 1) for seed in range(3)], deadline) as group:
                together = [result.tokens for result in await group.results()]
            alone = []
            for seed in range(3):
                with Group(engine, [job(seed, rows=seed + 1)], deadline) as group:
                    alone += [result.tokens for result in await group.results()]
            assert together == alone and [len(tokens) for tokens in together] == [1, 2, 3]

    run(main)


def test_where_there_is_no_room_for_all_none_is_taken(tiny: Mapping[str, Checkpoint]) -> None:
    async def main() -> None:
        with running(tiny["absorbing"], Bounds(tokens=1024)) as engine:
            deadline = Deadline.after(20)
            with Group(engine, [job()], deadline) as small, pytest.raises(APIError) as refused:
                Group(engine, [job(seed) for seed in range(4)], deadline)
            assert refused.value.status_code == 429 and small.jobs[0].stream.ended
            wait_until(lambda: engine.idle)
            assert engine.jobs.work == 0

    run(main)


def test_a_quota_is_asked_for_the_sum(tiny: Mapping[str, Checkpoint]) -> None:
    slow = Owner("key:slow", "slow", work_per_s=256 / 60 * 3)  # three of these parts in a burst

    async def main() -> None:
        with running(tiny["absorbing"]) as engine:
            with Group(engine, [job(owner=slow), job(owner=slow)], Deadline.after(20)) as group:
                await group.results()
            with pytest.raises(APIError) as refused:
                Group(engine, [job(owner=slow), job(owner=slow)], Deadline.after(20))
            assert refused.value.event.error.type == "rate_limited" and engine.idle
            with Group(engine, [job(owner=slow)], Deadline.after(20)) as group:
                await group.results()

    run(main)


def test_one_that_fails_ends_the_others(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.002)
    denoiser.longest = 32

    async def main() -> None:
        with running(checkpoint) as engine:
            with Group(engine, [job(), job(seq_len=64), job(seq_len=512)], Deadline.after(20)) as group:
                with pytest.raises(APIError) as failed:
                    await group.results()
                assert failed.value.event.error.type == "internal"
                wait_until(lambda: engine.idle)
            assert "internal" in [each.stream.outcome for each in group.jobs]

    run(main)


def test_who_leaves_leaves_nothing_running(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.002)

    async def main() -> None:
        with running(checkpoint) as engine:

            async def read() -> None:
                with Group(engine, [job(seq_len=64), job(seq_len=64)], Deadline.after(20)) as group:
                    await group.results()

            reading = asyncio.create_task(read())
            while not denoiser.calls:
                await asyncio.sleep(0.001)
            reading.cancel()
            await asyncio.wait({reading})
            wait_until(lambda: engine.idle)
            assert denoiser.calls < 64 and engine.jobs.work == 0

    run(main)


def test_one_deadline_ends_all(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"])
    denoiser.gate.clear()

    async def main() -> None:
        with running(checkpoint) as engine:
            with Group(engine, [job(), job()], Deadline.after(0.05)) as group, pytest.raises(APIError) as late:
                await group.results()
            assert late.value.event.error.type == "timeout"
            assert [each.stream.outcome for each in group.jobs] == ["timeout"] * 2
            denoiser.gate.set()
            wait_until(lambda: engine.idle)

    run(main)


def test_news_come_from_all_of_them_and_one_that_is_dismissed_is_told_of_no_more(
    tiny: Mapping[str, Checkpoint],
) -> None:
    async def main() -> None:
        checkpoint, _ = faked(tiny["absorbing"], delay_s=0.001)
        with running(checkpoint) as engine, Group(engine, [job(), job(), job()], Deadline.after(20)) as group:
            told: list[Job[Any]] = []
            enough = group.jobs[1]
            async for each in group.news(quiet_s=5):
                assert each is not None
                about, news = each
                assert about is not enough or not enough.stream.dismissed
                told.append(about)
                if about is enough and news.num_updates:
                    group.dismiss(enough)
            assert set(told) == set(group.jobs)
            assert [each.stream.outcome for each in group.jobs] == ["done"] * 3
            assert [each.stream.result is None for each in group.jobs] == [False, True, False]

    run(main)


def test_silence_is_told(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"])
    denoiser.gate.clear()

    async def main() -> None:
        with running(checkpoint) as engine, Group(engine, [job()], Deadline.after(20)) as group:
            async for each in group.news(quiet_s=0.02):
                if each is None:
                    denoiser.gate.set()
            assert group.jobs[0].stream.outcome == "done"

    run(main)


def test_what_is_too_much_together_is_refused_with_the_sum(tiny: Mapping[str, Checkpoint]) -> None:
    text: Any = None

    async def main() -> None:
        with running(tiny["absorbing"]) as engine:
            service = Service(Settings(max_request_work=600), engine, text)
            with pytest.raises(APIError) as refused:
                submit_together(service, [job(0), job(1), job(2)], Deadline.after(20))
            message = refused.value.event.error.message
            assert refused.value.status_code == 422 and engine.idle
            assert message == (
                "the 3 parts of this request may need 768 token passes together; this server takes at most 600 a request"
            )
            with submit_together(service, [job(0), job(1)], Deadline.after(20)) as group:
                assert len(await group.results()) == 2

    run(main)
