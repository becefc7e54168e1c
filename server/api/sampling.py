"""The endpoints that sample: admit, submit, and tell what happens, or only how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ..errors import ErrorEvent, timeout
from .access import CLIENT_LEFT
from .admission import Service, ServiceDep, admit, owner_of
from .events import EventStream, Narrator
from .openapi import SAMPLE_RESPONSES
from .protocol import (
    BlockSampleRequest,
    DoneEvent,
    Event,
    HybridSampleRequest,
    Process,
    SampleRequest,
)

log = logging.getLogger(__name__)

router = APIRouter()


@router.post("/sample", tags=["sampling"], responses=SAMPLE_RESPONSES)
async def sample(wire: SampleRequest, request: Request, service: ServiceDep) -> Response:
    """Samples from a checkpoint of the absorbing or the uniform process, denoised everywhere at once."""
    return await _answer(wire, request, service, ("absorbing", "uniform"))


@router.post("/sample/block", tags=["sampling"], responses=SAMPLE_RESPONSES)
async def sample_block(wire: BlockSampleRequest, request: Request, service: ServiceDep) -> Response:
    """Samples denoised one block after the other, left to right; any process."""
    return await _answer(wire, request, service, ("absorbing", "uniform", "hybrid"))


@router.post("/sample/hybrid", tags=["sampling"], responses=SAMPLE_RESPONSES)
async def sample_hybrid(wire: HybridSampleRequest, request: Request, service: ServiceDep) -> Response:
    """Samples from a checkpoint of the hybrid process."""
    return await _answer(wire, request, service, ("hybrid",))


async def _answer(wire: SampleRequest, request: Request, service: Service, processes: Sequence[Process]) -> Response:
    """Admit, submit, and answer with a stream of events or with the last one; in the end the rows are given back."""
    seconds, loop = min(wire.timeout_s, service.settings.request_timeout_s), asyncio.get_running_loop()
    due = loop.time() + seconds
    try:
        async with asyncio.timeout_at(due if seconds > 0 else None):
            job = await admit(service, wire, processes, request.url.path, owner_of(request))
    except TimeoutError:
        raise timeout(seconds) from None
    job.request_id, request.state.job = request.state.request_id, job
    log.debug("%s: %s with %s", job, request.url.path, job.parameters)
    engine = service.engine
    engine.submit(job)

    def expire() -> None:
        job.stream.fail(timeout(seconds))
        engine.cancel(job)

    timer = loop.call_at(due, expire)

    def close() -> None:
        timer.cancel()
        engine.cancel(job)

    checkpoint = engine.checkpoints[job.model]
    events = Narrator(job, checkpoint, service.text, wire.include_text and wire.stream, wire.keyframe_every).events()
    if wire.stream:
        return EventStream(events, close)
    try:
        return await _last_of(events, request)
    finally:
        close()


async def _last_of(events: AsyncIterator[Event | None], request: Request) -> Response:
    """The last of `events` as JSON, unless the client leaves before it."""
    last = asyncio.create_task(_last_event(events))
    left = asyncio.create_task(_client_left(request))
    try:
        await asyncio.wait({last, left}, return_when=asyncio.FIRST_COMPLETED)
        if not last.done():
            return Response(status_code=CLIENT_LEFT)
        event = last.result()
    finally:
        last.cancel()
        left.cancel()
    status = event.error.code if isinstance(event, ErrorEvent) else 200
    return JSONResponse(event.model_dump(mode="json"), status)


async def _last_event(events: AsyncIterator[Event | None]) -> DoneEvent | ErrorEvent:
    async for event in events:
        if isinstance(event, DoneEvent | ErrorEvent):
            return event
    raise AssertionError("a story without an end")


async def _client_left(request: Request) -> None:
    """Return when the client has; a handler that only computes is told by nobody else."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
