"""The engine without HTTP: who gets what when, and what becomes of a job that is cancelled, broken or aborted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from server.errors import APIError, shutdown
from server.owners.owner import Owner
from server.work.engine import Engine
from server.work.jobs import Job, Jobs
from server.work.rate import Rate
from server.work.room import Bounds
from server.work.stream import News, Stream
from tests.live_server import faked, wait_until
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import OPEN

pytest_plugins = ["tests.server_fixtures"]


@contextmanager
def running(
    *checkpoints: Checkpoint, bounds: Bounds | None = None, max_batch_tokens: int | None = None
) -> Iterator[Engine]:
    by_name = {checkpoint.name: checkpoint for checkpoint in checkpoints}
    engine = Engine(by_name, bounds=bounds, max_batch_tokens=max_batch_tokens)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
        assert not engine.alive


def make_job(
    rows: int = 1,
    *,
    model: str = "absorbing",
    steps: int = 500,
    seq_len: int = 64,
    seed: int = 1,
    owner: str = "test",
) -> Job[SamplingParameters]:
    """By default long: 64 forward passes or a few less."""
    parameters = SamplingParameters(seq_len=seq_len, num_samples=rows, num_inference_steps=steps, seed=seed)
    work = rows * seq_len * (min(steps, seq_len) if model == "absorbing" else steps)
    return Job(model, [OPEN] * seq_len, parameters, Stream(), Owner(f"address:{owner}", owner), work)


class Retired(Rate):
    """Adds up what it is told of."""

    work = 0.0

    def observe(self, work: float, seconds: float) -> None:
        self.work += work


async def end_of(job: Job[Any]) -> News:
    reader = job.stream.attach(end_alone=True)
    while True:
        news = await reader.read(20)
        assert news is not None, "the job has no end"
        if news.result is not None or news.error is not None:
            return news


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_jobs_share_forward_passes(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.002)

    async def main() -> None:
        with running(checkpoint) as engine:
            jobs = [make_job(2), make_job(3), make_job(1)]
            for job in jobs:
                engine.submit(job)
            assert engine.jobs.rows == 6
            ends = [await end_of(job) for job in jobs]
            assert [len(news.result.tokens) for news in ends if news.result] == [2, 3, 1]
            wait_until(lambda: engine.idle)
            assert denoiser.largest_batch == 6

    run(main)


def test_a_request_of_many_rows_does_not_hold_back_one_of_one(tiny: Mapping[str, Checkpoint]) -> None:
    """All join at once, and what a request takes follows from its own rows."""
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.002)

    async def main() -> None:
        with running(checkpoint, max_batch_tokens=512) as engine:
            greedy = [make_job(16, owner="greedy") for _ in range(4)]
            for job in greedy:
                engine.submit(job)
            wait_until(lambda: all(job.running for job in greedy))
            one, before = make_job(), denoiser.calls
            engine.submit(one)
            assert (await end_of(one)).result is not None
            assert denoiser.calls - before <= 2.5 * 64 and not any(job.stream.ended for job in greedy)
            assert one.stream.queue_ms <= one.stream.first_state_ms
            engine.abort(shutdown)

    run(main)


def test_who_cancels_may_come_again_before_the_step_has_ended(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.002)

    async def main() -> None:
        with running(checkpoint, bounds=Bounds(work=2000)) as engine:
            first, again = make_job(), make_job()
            denoiser.gate.clear()
            engine.submit(first)
            wait_until(lambda: denoiser.calls == 1)
            with pytest.raises(APIError, match="429"):
                engine.submit(make_job())
            engine.cancel(first)
            assert engine.jobs.work == 0
            engine.submit(again)
            assert engine.jobs.work == again.work
            denoiser.gate.set()
            assert (await end_of(again)).result is not None
            wait_until(lambda: engine.idle)
            assert engine.jobs.work == 0

    run(main)


def test_outstanding_work_is_counted_as_it_is_done(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.002)

    async def main() -> None:
        with running(checkpoint) as engine:
            jobs = [make_job(2), make_job()]
            for job in jobs:
                engine.submit(job)
            assert 0 < engine.jobs.work <= sum(job.work for job in jobs)
            wait_until(lambda: denoiser.calls > 30)
            assert 0 < engine.jobs.work < 0.6 * sum(job.work for job in jobs)
            assert engine.jobs.work == sum(job.left for job in engine.jobs.all)
            assert (engine.jobs.num_running, engine.jobs.num_waiting, engine.jobs.rows) == (2, 0, 3)
            for job in jobs:
                await end_of(job)
            wait_until(lambda: engine.idle)
            assert engine.jobs.work == 0 and engine.rate.per_s > 1000

    run(main)


def test_too_much_work_is_refused_and_told_when_to_come_again(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.02)

    async def main() -> None:
        with running(checkpoint, bounds=Bounds(work=4 * 64 * 64)) as engine:
            jobs = [make_job(), make_job()]
            for job in jobs:
                engine.submit(job)
            with pytest.raises(APIError) as caught:  # a client alone gets half
                engine.submit(make_job())
            assert caught.value.status_code == 429
            engine.check_room(Owner("address:other", "other"))
            wait_until(lambda: denoiser.calls > 20)
            jobs.append(make_job(owner="other"))
            engine.submit(jobs[-1])
            with pytest.raises(APIError) as later:
                engine.submit(make_job(2))
            # Three jobs of 1.3 s each, less what is done, in one pass a step; what is told is up to half as long again.
            needed = engine.jobs.work / engine.rate.per_s
            assert later.value.headers is not None
            assert 1 <= int(later.value.headers["Retry-After"]) <= max(2, 1.6 * needed + 2)
            engine.cancel(jobs[0])
            engine.cancel(jobs[1])
            wait_until(lambda: len(engine.jobs.all) == 1)
            engine.submit(make_job())
            engine.abort(shutdown)

    run(main)


def test_a_cancelled_job_costs_at_most_the_step_it_is_in(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.03)

    async def main() -> None:
        with running(checkpoint) as engine:
            job = make_job()
            engine.submit(job)
            wait_until(lambda: denoiser.calls >= 2)
            engine.cancel(job)
            calls = denoiser.calls
            wait_until(lambda: engine.idle)
            assert denoiser.calls <= calls + 1
            calls = denoiser.calls
            await asyncio.sleep(0.1)
            assert denoiser.calls == calls
            engine.cancel(job)

    run(main)


def test_a_step_that_raises_fails_its_jobs_alone(
    tiny: Mapping[str, Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    sound, _ = faked(tiny["uniform"], delay_s=0.002)
    broken, denoiser = faked(tiny["absorbing"], delay_s=0.002)
    names: list[str] = []

    async def main() -> None:
        with running(sound, broken) as engine:
            spared = make_job(model="uniform", steps=50)
            engine.submit(spared)
            denoiser.failure = RuntimeError("out of memory, they say")
            jobs = [make_job(2), make_job()]
            for job in jobs:
                job.request_id = f"client-{len(names)}"
                names.append(f"{job.id} (request {job.request_id}, to absorbing)")
                engine.submit(job)
            errors = [(await end_of(job)).error for job in jobs]
            assert [error.event.error.type for error in errors if error] == ["internal", "internal"]
            assert all("memory" not in error.event.error.message for error in errors if error)
            assert (await end_of(spared)).result is not None
            again = make_job()
            engine.submit(again)
            assert (await end_of(again)).result is not None
            assert engine.alive and engine.idle

    with caplog.at_level(logging.ERROR, logger="server.work.engine"):
        run(main)
    (record,) = caplog.records
    assert len(names) == 2 and all(name in record.getMessage() for name in names)
    assert record.exc_info is not None


def test_a_step_that_raises_fails_those_in_it_alone(
    tiny: Mapping[str, Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    """Rows of another length of the same checkpoint go on."""
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.002)

    async def main() -> None:
        with running(checkpoint) as engine:
            long, short = make_job(seq_len=90), make_job(seq_len=20)
            engine.submit(long)
            engine.submit(short)
            denoiser.longest = 50
            error = (await end_of(long)).error
            assert error is not None and error.event.error.type == "internal"
            assert (await end_of(short)).result is not None
            wait_until(lambda: engine.idle)

    with caplog.at_level(logging.CRITICAL, logger="server.work.engine"):
        run(main)


def test_logits_without_a_distribution_fail_their_job_alone(
    tiny: Mapping[str, Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.002)

    async def main() -> None:
        with running(checkpoint) as engine:
            sound, bad = make_job(2, seq_len=30), make_job(2, seq_len=30)
            engine.rate = retired = Retired(1.0)
            sound.tokens[0] = 1
            bad.tokens[0] = denoiser.poison = 49
            bad.request_id = "of-the-bad-one"
            engine.submit(sound)
            engine.submit(bad)
            error = (await end_of(bad)).error
            assert error is not None and error.event.error.type == "internal"
            assert (await end_of(sound)).result is not None
            wait_until(lambda: engine.idle)
            assert retired.work == sound.work, "what the bad one would have needed counts as done"

    with caplog.at_level(logging.ERROR, logger="server.work.engine"):
        run(main)
    assert "logits are NaN" in caplog.text and "of-the-bad-one" in caplog.text


def test_a_short_job_is_seen_to_within_three_ticks_of_long_ones(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.005)
    other = replace(checkpoint, name="other")

    async def main() -> None:
        with running(checkpoint, other, max_batch_tokens=96) as engine:
            long = [make_job(seq_len=90, model=name) for name in ("absorbing", "other") for _ in range(8)]
            for job in long:
                engine.submit(job)
            wait_until(lambda: all(job.stream.first_state_ms for job in long))
            for _ in range(5):
                short, before = make_job(seq_len=16, steps=5), len(denoiser.widths)
                engine.submit(short)
                assert (await end_of(short)).result is not None
                assert denoiser.widths[before:].index(16) <= 2
            engine.abort(shutdown)

    run(main)


def test_a_job_that_cannot_join_fails_alone(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.002)

    async def main() -> None:
        with running(checkpoint) as engine:
            sound, odd = make_job(), make_job(seq_len=8)
            odd.tokens.append(10**6)
            engine.submit(sound)
            engine.submit(odd)
            assert (await end_of(odd)).error is not None
            assert (await end_of(sound)).result is not None

    run(main)


def test_checkpoints_take_turns(tiny: Mapping[str, Checkpoint]) -> None:
    one, one_denoiser = faked(tiny["absorbing"], delay_s=0.005, name="one")
    two, two_denoiser = faked(tiny["absorbing"], delay_s=0.005, name="two")

    async def main() -> None:
        with running(one, two) as engine:
            jobs = [make_job(model="one"), make_job(model="two")]
            for job in jobs:
                engine.submit(job)
            for job in jobs:
                await end_of(job)
            assert abs(jobs[0].stream.total_ms - jobs[1].stream.total_ms) < 0.2 * jobs[0].stream.total_ms
            assert one_denoiser.calls == two_denoiser.calls

    run(main)


def test_an_idle_engine_does_nothing(tiny: Mapping[str, Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = faked(tiny["absorbing"])
    turns = 0
    wait = Jobs.wait

    def counted(self: Jobs, busy: bool) -> bool:
        nonlocal turns
        turns += 1
        return wait(self, busy)

    monkeypatch.setattr(Jobs, "wait", counted)

    async def main() -> None:
        with running(checkpoint) as engine:
            job = make_job(seq_len=4)
            engine.submit(job)
            await end_of(job)
            wait_until(lambda: engine.idle)
            await asyncio.sleep(0.02)
            before = turns
            await asyncio.sleep(0.1)
            assert turns == before

    run(main)


def test_draining_refuses_new_jobs_and_finishes_the_others(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.002)

    async def main() -> None:
        with running(checkpoint) as engine:
            jobs = [make_job(), make_job()]
            for job in jobs:
                engine.submit(job)
            engine.drain()
            with pytest.raises(APIError) as caught:
                engine.submit(make_job())
            assert caught.value.status_code == 503
            assert caught.value.headers is not None and "Retry-After" in caught.value.headers
            for job in jobs:
                assert (await end_of(job)).result is not None

    run(main)


def test_an_engine_that_dies_says_so_and_leaves_nobody_waiting(
    tiny: Mapping[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.002)

    async def main() -> None:
        with running(checkpoint) as engine:
            job = make_job()
            engine.submit(job)

            def broken() -> None:
                raise RuntimeError("a fault of our own")

            monkeypatch.setattr(engine, "_exchange", broken)
            assert (await end_of(job)).error is not None
            wait_until(lambda: not engine.alive)
            with pytest.raises(APIError) as caught:
                engine.submit(make_job())
            assert caught.value.status_code == 503

    with caplog.at_level(logging.CRITICAL, logger="server.work.engine"):
        run(main)


def test_a_job_keeps_its_samples_whatever_joins_and_leaves_beside_it(tiny: Mapping[str, Checkpoint]) -> None:
    async def alone_and_in_company() -> None:
        with running(tiny["absorbing"]) as engine:
            alone = make_job(2, seq_len=24, steps=40, seed=11)
            engine.submit(alone)
            expected = (await end_of(alone)).result
            company = [make_job(1 + seed % 3, seq_len=8 + 5 * seed, steps=20 + seed, seed=seed) for seed in range(7)]
            again = make_job(2, seq_len=24, steps=40, seed=11)
            for job in [*company[:4], again, *company[4:]]:
                engine.submit(job)
            engine.cancel(company[0])
            result = (await end_of(again)).result
            assert expected is not None and result is not None
            assert result.tokens == expected.tokens and result.step_map == expected.step_map

    run(alone_and_in_company)
