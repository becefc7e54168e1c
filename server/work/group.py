"""Several jobs that answer one request: taken all or none, and over together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

from token_diffusion.engine.batch import Result

from ..errors import APIError, cancelled
from .deadline import Deadline
from .engine import Engine
from .jobs import Job
from .stream import News, Reader


class Group:
    """Jobs of one owner under one deadline; a context that leaves none of them running, whichever way it is left.

    To the engine each is a job as any other. One that fails ends the others, too.

    Raises:
        APIError: the engine does not take them; then it has taken none.
    """

    def __init__(self, engine: Engine, jobs: Sequence[Job[Any]], deadline: Deadline) -> None:
        engine.submit(*jobs)
        self._engine, self.jobs = engine, list(jobs)
        self._due = asyncio.get_running_loop().call_at(deadline.due, lambda: self._end(deadline.error()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End those that still run."""
        self._due.cancel()
        self._end(cancelled())

    def dismiss(self, job: Job[Any]) -> None:
        """End one of them of which enough is known; it has not failed."""
        job.stream.dismiss()
        self._engine.cancel(job)

    async def results(self) -> list[Result]:
        """Of each, once all have ended. Raises APIError: why the first one that failed did."""
        async for told in self.news(end_alone=True):
            if told is not None and told[1].error is not None:
                raise told[1].error
        results = [job.stream.result for job in self.jobs]
        return [result for result in results if result is not None]

    async def news(
        self, *, end_alone: bool = False, quiet_s: float = 15.0
    ) -> AsyncIterator[tuple[Job[Any], News] | None]:
        """What happens to each, as it happens, to the end of all or to the first error; None for each `quiet_s` of nothing.

        A job that is dismissed is told of no more.
        """
        reading = {self._read(job, job.stream.attach(end_alone=end_alone)) for job in self.jobs}
        try:
            while reading:
                done, reading = await asyncio.wait(reading, timeout=quiet_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    yield None
                for job, reader, news in (task.result() for task in done):
                    if job.stream.dismissed:
                        continue
                    if news.error is not None:
                        self._end(cancelled())
                        yield job, news
                        return
                    yield job, news
                    if news.result is None:
                        reading.add(self._read(job, reader))
        finally:
            for task in reading:
                task.cancel()

    def _read(self, job: Job[Any], reader: Reader) -> asyncio.Task[tuple[Job[Any], Reader, News]]:
        async def read() -> tuple[Job[Any], Reader, News]:
            news = await reader.read(None)
            assert news is not None
            return job, reader, news

        return asyncio.create_task(read())

    def _end(self, error: APIError) -> None:
        for job in self.jobs:
            job.stream.fail(error)
            self._engine.cancel(job)
