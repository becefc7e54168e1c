"""Who is found by an id, and how long: without HTTP, and with an engine that only notes what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from server.errors import APIError
from server.owners.owner import Owner
from server.work import register as module
from server.work.deadline import Deadline
from server.work.jobs import Job
from server.work.register import Entry, Register
from server.work.stream import Stream
from token_diffusion.engine.batch import Result, Update
from token_diffusion.samplers.parameters import SamplingParameters

ALICE, BOB = Owner("key:alice", "alice"), Owner("key:bob", "bob")
HERE, THERE = Owner("address:10.0.0.1", "10.0.0.1"), Owner("address:10.0.0.2", "10.0.0.2")
RESULT = Result([[7]], [[1]], 1, 0, 0, 1)


class Notes:
    """An engine that notes which jobs came and which were cancelled while they ran."""

    def __init__(self) -> None:
        self.submitted: list[Job[Any]] = []
        self.cancelled: list[Job[Any]] = []

    def submit(self, job: Job[Any]) -> None:
        self.submitted.append(job)

    def cancel(self, job: Job[Any]) -> None:
        if job.stream.result is None:
            self.cancelled.append(job)


def make(reattach_s: float = 60.0, max_unread_tokens: int = 10**6) -> tuple[Register, Notes]:
    engine: Any = Notes()
    return Register(engine, reattach_s, max_unread_tokens), engine


def submit(
    register: Register, owner: Owner = ALICE, *, keep: bool = True, seq_len: int = 64, in_s: float = 60
) -> Entry:
    job = Job("demo", [1] * seq_len, SamplingParameters(seq_len=seq_len), Stream(), owner, seq_len)
    return register.submit(job, Deadline.after(in_s), keep=keep)


def left(register: Register, owner: Owner = ALICE, *, seq_len: int = 64, ended: bool = True) -> Entry:
    """A request whose only reader has left."""
    entry = submit(register, owner, seq_len=seq_len)
    register.detach(entry, register.attach(entry))
    if ended:
        finish(entry)
    return entry


def finish(entry: Entry) -> None:
    entry.job.stream.begin([[0]])
    entry.job.stream.publish(Update("key", 1, 0.0, 1, [(0, 0, 7)], [], RESULT))


def found(register: Register, entry: Entry, owner: Owner = ALICE) -> bool:
    try:
        return register.find(entry.job.id, owner) is entry
    except APIError as error:
        assert error.status_code == 404
        return False


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_the_last_reader_that_leaves_ends_a_request_that_is_not_kept() -> None:
    async def main() -> None:
        register, engine = make()
        entry = submit(register, keep=False)
        first, second = register.attach(entry), register.attach(entry)
        register.detach(entry, first)
        assert found(register, entry) and engine.cancelled == []
        register.detach(entry, second)
        assert not found(register, entry) and engine.cancelled == [entry.job]
        assert len(register) == 0

    run(main)


def test_what_is_kept_outlives_its_last_reader_for_a_while() -> None:
    async def main() -> None:
        register, engine = make(reattach_s=0.05)
        running, ended = left(register, ended=False), left(register)
        assert found(register, running) and found(register, ended)
        await asyncio.sleep(0.1)
        assert not found(register, running) and not found(register, ended)
        assert engine.cancelled == [running.job]
        error = running.job.stream.error
        assert error is not None and (error.event.error.type, error.event.error.code) == ("cancelled", 499)
        assert ended.job.stream.error is None

    run(main)


def test_who_comes_back_stops_the_clock_and_who_leaves_again_starts_it() -> None:
    async def main() -> None:
        register, engine = make(reattach_s=0.05)
        entry = left(register, ended=False)
        reader = register.attach(entry)
        await asyncio.sleep(0.1)
        assert found(register, entry) and engine.cancelled == []
        register.detach(entry, reader)
        await asyncio.sleep(0.1)
        assert not found(register, entry) and engine.cancelled == [entry.job]

    run(main)


def test_time_that_is_over_ends_a_request_that_nobody_reads_and_it_can_be_asked_why() -> None:
    async def main() -> None:
        register, engine = make()
        entry = submit(register, in_s=0.03)
        register.detach(entry, register.attach(entry))
        await asyncio.sleep(0.08)
        assert engine.cancelled == [entry.job]
        news = await register.attach(entry).read(1)
        assert news is not None and news.error is not None
        assert news.error.event.error.message == "not finished within 0.03 s"

    run(main)


def test_a_cancelled_request_is_unknown_at_once_and_its_readers_are_told() -> None:
    async def main() -> None:
        register, engine = make()
        entry = submit(register)
        readers = [register.attach(entry), register.attach(entry, end_alone=True)]
        register.cancel(entry)
        assert not found(register, entry) and engine.cancelled == [entry.job]
        for reader in readers:
            news = await reader.read(1)
            assert news is not None and news.error is not None and news.error.event.error.type == "cancelled"
            register.detach(entry, reader)
        assert len(register) == 0

    run(main)


@pytest.mark.parametrize(
    ("whose", "who", "opens"),
    [(ALICE, ALICE, True), (ALICE, BOB, False), (ALICE, HERE, False), (HERE, HERE, True), (HERE, THERE, True)],
)
def test_a_key_opens_what_is_its_own_and_without_keys_the_id_is_enough(whose: Owner, who: Owner, opens: bool) -> None:
    async def main() -> None:
        register, _ = make()
        entry = submit(register, whose)
        assert found(register, entry, who) == opens
        assert not found(make()[0], entry, whose)

    run(main)


def test_what_nobody_reads_is_bounded_and_the_oldest_goes_first() -> None:
    async def main() -> None:
        register, _ = make(max_unread_tokens=300)
        entries = [left(register, seq_len=100) for _ in range(5)]
        assert [found(register, entry) for entry in entries] == [False, False, True, True, True]
        small = [left(register, seq_len=1) for _ in range(100)]
        assert sum(found(register, entry) for entry in small) <= 300 // module.SMALLEST_TOKENS
        huge = left(register, seq_len=301)
        assert not found(register, huge), "what is too large by itself cannot be kept"
        assert len(register) == 0

    run(main)


def test_who_keeps_most_makes_room_for_others() -> None:
    async def main() -> None:
        register, engine = make(max_unread_tokens=500)
        modest = left(register, BOB, seq_len=100, ended=False)
        greedy = [left(register, ALICE, seq_len=100) for _ in range(20)]
        assert found(register, modest, BOB)
        assert [found(register, entry) for entry in greedy] == [False] * 16 + [True] * 4
        assert engine.cancelled == []

    run(main)


def test_what_is_read_does_not_count() -> None:
    async def main() -> None:
        register, _ = make(max_unread_tokens=200)
        entries = [left(register, seq_len=100) for _ in range(2)]
        readers = [register.attach(entry) for entry in entries]
        more = [left(register, seq_len=100) for _ in range(2)]
        assert all(found(register, entry) for entry in entries + more)
        for entry, reader in zip(entries, readers, strict=True):
            register.detach(entry, reader)
        assert [found(register, entry) for entry in entries + more] == [True, True, False, False]

    run(main)


def test_a_request_has_so_many_readers_and_no_more() -> None:
    async def main() -> None:
        register, _ = make()
        entry = submit(register)
        readers = [register.attach(entry) for _ in range(module.MAX_READERS)]
        with pytest.raises(APIError) as caught:
            register.attach(entry)
        assert caught.value.status_code == 429
        register.detach(entry, readers[0])
        register.attach(entry)

    run(main)


def test_what_the_engine_does_not_take_is_not_known() -> None:
    async def main() -> None:
        register, engine = make()

        def refuse(job: Job[Any]) -> None:
            raise APIError(429, "overloaded", "full")

        engine.submit = refuse  # type: ignore[method-assign]
        with pytest.raises(APIError):
            submit(register)
        assert len(register) == 0

    run(main)
