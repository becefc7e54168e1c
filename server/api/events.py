"""From the news of a stream to the events of the wire, and these to bytes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.engine.batch import Result
from token_diffusion.text import decode

from ..errors import internal
from ..work.jobs import Job
from ..work.stream import News
from ..work.text import TextThread
from .deadline import Deadline
from .protocol import (
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


class Narrator:
    """Tells one job's story as events.

    Args:
        text: where token ids become text, off the event loop.
        deadline: when an error ends the story, though it be only its last text that is awaited.
        include_text: whether states are told as text, too.
        keyframe_every: states from one that is told whole to the next; None for none.
    """

    def __init__(
        self,
        job: Job,
        checkpoint: Checkpoint,
        text: TextThread,
        deadline: Deadline,
        include_text: bool = False,
        keyframe_every: int | None = None,
    ) -> None:
        self._job = job
        self._checkpoint = checkpoint
        self._text = text
        self._deadline = deadline
        self._include_text = include_text
        self._keyframe_every = keyframe_every
        self._num_states = 0
        self._tokens: list[list[int]] = []

    async def events(self) -> AsyncIterator[Event | None]:
        """All events, the last one done or error; None for each `HEARTBEAT_S` without any."""
        try:
            async for event in self._told():
                yield event
        except TimeoutError:
            yield self._deadline.error().event

    async def _told(self) -> AsyncIterator[Event | None]:
        """The same; TimeoutError if the text thread is not done in time."""
        while True:
            news = await self._job.stream.read(HEARTBEAT_S)
            if news is None:
                yield None
                continue
            if news.tokens is not None:
                yield self._start(news.tokens)
            if news.num_updates:
                yield await self._state(news)
            for block in news.blocks if self._job.parameters.block_size is not None else []:
                yield BlockEvent(block=block.block, start=block.start, end=block.end)
            if news.error is not None:
                yield news.error.event
                return
            if news.result is not None:
                yield await self._done(news.result)
                return

    def _start(self, tokens: list[list[int]]) -> StartEvent:
        self._tokens = [list(sample) for sample in tokens]
        parameters = self._job.parameters
        return StartEvent(
            id=self._job.id,
            model=self._checkpoint.name,
            process=self._checkpoint.process,
            seed=parameters.seed,
            seq_len=parameters.seq_len,
            num_inference_steps=parameters.num_inference_steps,
            tokens=tokens,
        )

    async def _state(self, news: News) -> StateEvent:
        changes = [(sample, position, token) for (sample, position), token in news.changes.items()]
        event = StateEvent(step=news.step, t=news.t, nfe=news.nfe, changes=changes)
        for sample, position, token in changes:
            self._tokens[sample][position] = token
        self._num_states += 1
        if self._keyframe_every is not None and self._num_states % self._keyframe_every == 0:
            event.keyframe = [list(tokens) for tokens in self._tokens]
        if self._include_text:
            event.text = await self._in_text_thread(self._show_all)
        return event

    async def _done(self, result: Result) -> DoneEvent:
        texts = await self._in_text_thread(
            lambda: [decode(self._checkpoint.tokenizer, tokens) for tokens in result.tokens]
        )
        stream = self._job.stream
        return DoneEvent(
            id=self._job.id,
            model=self._checkpoint.name,
            seed=self._job.parameters.seed,
            samples=[Sample(text=text, tokens=ids) for text, ids in zip(texts, result.tokens, strict=True)],
            step_map=result.step_map,
            finish_reason="stop",
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

    async def _in_text_thread(self, work: Callable[[], list[str]]) -> list[str]:
        async with self._deadline.bound():
            return await self._text.run(work)

    def _show_all(self) -> list[str]:
        return [decode(self._checkpoint.tokenizer, tokens, keep_masks=True) for tokens in self._tokens]


async def server_sent(events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    """The text/event-stream of `events`. Whatever breaks on the way, the last event is done or error."""
    number = 0
    try:
        async for event in events:
            if event is None:
                yield KEEPALIVE_COMMENT
                continue
            yield _format(event, number)
            number += 1
    except Exception:
        log.exception("a stream broke")
        yield _format(internal().event, number)


def _format(event: Event, number: int) -> bytes:
    return format_sse_event(
        data_str=event.model_dump_json(exclude_unset=True),
        event=EVENT_NAMES[type(event)],
        id=str(number),
        retry=RETRY_MS if number == 0 else None,
    )


class EventStream(StreamingResponse):
    """A stream of events; `on_close` is called once it is over, also when its client has left in the middle.

    (The `finally` of a generator is no place for that: nobody closes a generator whose consumer is cancelled.)
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[Event | None], on_close: Callable[[], None]) -> None:
        super().__init__(server_sent(events), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()
