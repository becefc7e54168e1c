"""The endpoints that sample: admit, submit, and tell what happens, or only how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ...errors import CLIENT_LEFT, SOON, ErrorEvent
from ...work.deadline import Deadline
from ..admission import Service, ServiceDep, admit
from ..events import EventStream, Narrator
from ..middleware.bodies import BoundedRoute
from ..middleware.owners import owner_of
from ..openapi import SAMPLE_RESPONSES
from ..protocol.events import DoneEvent
from ..protocol.requests import BlockSampleRequest, HybridSampleRequest, SampleRequest
from ..protocol.values import Process

log = logging.getLogger(__name__)

router = APIRouter(route_class=BoundedRoute)


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
    """Admit, submit, and answer with a stream of events or with the last one."""
    deadline = Deadline.after(min(wire.timeout_s, service.settings.request_timeout_s))
    try:
        job = await admit(service, wire, processes, request.url.path, owner_of(request), deadline)
    except TimeoutError:
        raise deadline.error() from None
    job.request_id, request.state.job = request.state.request_id, job
    log.debug("%s: %s with %s", job, request.url.path, job.parameters)
    register = service.register
    entry = register.submit(job, deadline, keep=wire.on_disconnect == "keep")
    reader = register.attach(entry, end_alone=not wire.stream)
    narrator = Narrator(job, service.engine.checkpoints[job.model], service.text, deadline)
    if wire.stream:
        return EventStream(job.id, narrator.events(reader), partial(register.detach, entry, reader))
    try:
        return await _unless_left(narrator.end(reader), request)
    finally:
        register.detach(entry, reader)


async def _unless_left(end: Coroutine[Any, Any, DoneEvent | ErrorEvent], request: Request) -> Response:
    """The last event as JSON, unless the client leaves before it."""
    last = asyncio.create_task(end)
    left = asyncio.create_task(_client_left(request))
    try:
        await asyncio.wait({last, left}, return_when=asyncio.FIRST_COMPLETED)
        if not last.done():
            return Response(status_code=CLIENT_LEFT)
        event = last.result()
    finally:
        last.cancel()
        left.cancel()
    if isinstance(event, ErrorEvent):
        status = event.error.code
        return JSONResponse(
            event.model_dump(mode="json"), status, SOON if status == HTTPStatus.SERVICE_UNAVAILABLE else None
        )
    return JSONResponse(event.model_dump(mode="json"))


async def _client_left(request: Request) -> None:
    """Return when the client has; a handler that only computes is told by nobody else."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
