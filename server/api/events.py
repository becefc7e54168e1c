"""From the news of a stream to the events of the wire, and these to bytes."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.engine.batch import Result
from token_diffusion.errors import ParameterError
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import Ending, decode, ending

from ..errors import APIError, ErrorEvent, internal
from ..work.deadline import Deadline
from ..work.jobs import Job
from ..work.stream import News, Place, Reader
from ..work.text import TextThread
from .protocol.events import (
    EVENT_NAMES,
    BlockEvent,
    DoneEvent,
    Event,
    Sample,
    StartEvent,
    StateEvent,
    Timings,
    Usage,
)

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""Seconds of silence after which a stream says that it is still there."""

RETRY_MS = 2000

DECIMALS = 6
"""Of a log-probability, which is of single precision."""

T = TypeVar("T")

Told = tuple[int, Event]
"""An event and its id."""


def logprobs_told(logprobs: Iterable[float | None]) -> list[float | None]:
    """As JSON can say them: None for what is not finite."""
    return [round(each, DECIMALS) if each is not None and math.isfinite(each) else None for each in logprobs]


class Narrator:
    """Tells one reader a job's story as events, each with its id, which is a place in the story: of two, the later is larger.

    Args:
        text: where token ids become text, off the event loop.
        deadline: when an error ends the story, though it be only its last text that is awaited.
        after: the id of the last event that the reader has; None if it has none. What comes after it begins with the
            whole state, in a keyframe.
    """

    def __init__(
        self,
        job: Job[SamplingParameters],
        checkpoint: Checkpoint,
        text: TextThread,
        deadline: Deadline,
        after: int | None = None,
    ) -> None:
        self._job = job
        self._checkpoint = checkpoint
        self._text = text
        self._deadline = deadline
        self._telling = job.stream.telling
        self._num_states = 0
        self._resumes = after is not None
        self.place = None if after is None else self._place(after)

    async def events(self, reader: Reader) -> AsyncIterator[Told | None]:
        """All events, the last one done or error; None for each `HEARTBEAT_S` without any."""
        try:
            async for told in self._told(reader):
                yield told
        except APIError as error:
            yield self._id(self._job.stream.place) + 1, error.event

    async def _told(self, reader: Reader) -> AsyncIterator[Told | None]:
        """The same; APIError, 504, if the text thread is not done in time."""
        while True:
            news = await reader.read(HEARTBEAT_S)
            if news is None:
                yield None
                continue
            if news.begins:
                yield 0, self._start(news.tokens.tolist())
            if news.num_updates:
                yield self._id(Place(news.after.updates, news.before.blocks)), await self._state(news)
            for number, block in enumerate(news.blocks if self._blocks else [], news.before.blocks + 1):
                event = BlockEvent(block=block.block, start=block.start, end=block.end)
                yield self._id(Place(news.after.updates, number)), event
            if news.error is not None or news.result is not None:
                yield self._id(news.after) + 1, await self._end(news.result, news.error)
                return

    async def end(self, reader: Reader) -> DoneEvent:
        """The last event alone, whenever it comes. Raises APIError if the job ends badly."""
        while (news := await reader.read(None)) is None or (news.error is None and news.result is None):
            pass
        if news.error is not None:
            raise news.error
        assert news.result is not None
        return await self.answer(news.result)

    @property
    def _blocks(self) -> int:
        """Most blocks that are told; without a block_size the one block is not."""
        parameters = self._job.parameters
        return 0 if parameters.block_size is None else -(-parameters.seq_len // parameters.block_size)

    def _id(self, place: Place) -> int:
        return place.updates * (self._blocks + 1) + min(place.blocks, self._blocks)

    def _place(self, id: int) -> Place:
        """What a reader knows whose last event was number `id`. Raises ParameterError if there is no such event yet."""
        stream = self._job.stream
        here = stream.place
        if id > self._id(here) + stream.ended:
            raise ParameterError("Last-Event-ID", "be the id of an event of this request", id)
        if id >= self._id(here):
            return here
        return Place(*divmod(id, self._blocks + 1))

    def _start(self, tokens: list[list[int]]) -> StartEvent:
        parameters = self._job.parameters
        return StartEvent(
            id=self._job.id,
            model=self._checkpoint.name,
            process=self._checkpoint.process,
            seed=parameters.seed,
            seq_len=parameters.seq_len,
            num_inference_steps=parameters.num_inference_steps,
            sampler=parameters.sampler,
            preset=self._preset,
            tokens=tokens,
        )

    @property
    def _preset(self) -> dict[str, Any] | None:
        return dict(self._telling.preset) or None

    async def _state(self, news: News) -> StateEvent:
        event = StateEvent(step=news.step, t=news.t, nfe=news.nfe, changes=news.changes)
        if (logprobs := news.changed_logprobs) is not None:
            event.logprobs = logprobs_told(logprobs)
        self._num_states += 1
        every = self._telling.keyframe_every
        if self._resumes or (every is not None and self._num_states % every == 0):
            event.keyframe = news.tokens.tolist()
            if news.logprobs is not None:
                event.keyframe_logprobs = [logprobs_told(row) for row in news.logprobs.tolist()]
        self._resumes = False
        if self._telling.include_text:
            event.text = await self._in_text_thread(
                lambda: [
                    decode(self._checkpoint.tokenizer, row, keep_masks=True, start=self._telling.start)
                    for row in news.tokens.tolist()
                ]
            )
        return event

    async def _end(self, result: Result | None, error: APIError | None) -> DoneEvent | ErrorEvent:
        if error is not None:
            return error.event
        assert result is not None
        return await self.answer(result)

    async def answer(self, result: Result) -> DoneEvent:
        """The last event of a job that ended well. Raises APIError, 504, if its text is not there in time."""
        endings = await self._endings(result)
        samples = zip(endings, result.tokens, strict=True)
        stream = self._job.stream
        return DoneEvent(
            id=self._job.id,
            model=self._checkpoint.name,
            seed=self._job.parameters.seed,
            sampler=self._job.parameters.sampler,
            preset=self._preset,
            samples=[Sample(text=end.text, tokens=ids, finish_reason=end.reason) for end, ids in samples],
            step_map=result.step_map,
            logprobs=None if result.logprobs is None else [logprobs_told(row) for row in result.logprobs],
            finish_reason="stop" if all(end.stopped for end in endings) else "length",
            usage=Usage(
                prompt_tokens=result.prompt_tokens - len(self._checkpoint.facts.frame),
                completion_tokens=result.completion_tokens,
                nfe=result.nfe,
                forwards_skipped=result.forwards_skipped,
            ),
            timings=Timings(
                queue_ms=round(stream.queue_ms, 3),
                first_state_ms=round(stream.first_state_ms, 3),
                total_ms=round(stream.total_ms, 3),
            ),
        )

    async def _endings(self, result: Result) -> list[Ending]:
        """The text of each sample to its end; where that is to be searched for, others have their turn in between."""
        job, checkpoint, stop, start = self._job, self._checkpoint, self._telling.stop, self._telling.start

        def end(tokens: list[int]) -> Ending:
            return ending(checkpoint.tokenizer, tokens, job.tokens, stop=stop, facts=checkpoint.facts, start=start)

        if not stop:
            return await self._in_text_thread(lambda: [end(tokens) for tokens in result.tokens])
        return [await self._in_text_thread(partial(end, tokens)) for tokens in result.tokens]

    async def _in_text_thread(self, work: Callable[[], T]) -> T:
        async with self._deadline.bound():
            return await self._text.run(work)


async def server_sent(events: AsyncIterator[Told | None]) -> AsyncIterator[bytes]:
    """The text/event-stream of `events`. Whatever breaks on the way, the last event is done or error."""
    last = -1
    try:
        async for told in events:
            if told is None:
                yield KEEPALIVE_COMMENT
                continue
            retry = RETRY_MS if last < 0 else None
            last, event = told
            yield _format(event, last, retry)
    except Exception:
        log.exception("a stream broke")
        yield _format(internal().event, last + 1)


def _format(event: Event, id: int, retry: int | None = None) -> bytes:
    return format_sse_event(
        data_str=event.model_dump_json(exclude_unset=True), event=EVENT_NAMES[type(event)], id=str(id), retry=retry
    )


class SentStream(StreamingResponse):
    """Server-sent `lines`; `on_close` is called once it is over, also when its client has left in the middle.

    (The `finally` of a generator is no place for that: nobody closes a generator whose consumer is cancelled.)
    """

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterator[bytes], on_close: Callable[[], None], **headers: str) -> None:
        super().__init__(lines, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()


class EventStream(SentStream):
    """A stream of events of the request `id`."""

    def __init__(self, id: str, events: AsyncIterator[Told | None], on_close: Callable[[], None]) -> None:
        super().__init__(server_sent(events), on_close, **{"X-Sample-Id": id})
