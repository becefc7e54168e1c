"""The endpoints that sample: admit, submit, and tell what happens, or only how it ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..admission import Service, ServiceDep, admit, belongs, deadline_of
from ..answer import answer
from ..events import EventStream, Narrator
from ..middleware.bodies import BoundedRoute
from ..middleware.owners import owner_of
from ..openapi import SAMPLE_RESPONSES
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
    deadline = deadline_of(wire, service.settings)
    job = await admit(service, wire, processes, request.url.path, owner_of(request), deadline)
    belongs([job], request)
    log.debug("%s: %s with %s", job, request.url.path, job.parameters)
    register = service.register
    entry = register.submit(job, deadline, keep=wire.on_disconnect == "keep")
    reader = register.attach(entry, end_alone=not wire.stream)
    narrator = Narrator(job, service.engine.checkpoints[job.model], service.text, deadline)
    if wire.stream:
        return EventStream(job.id, narrator.events(reader), partial(register.detach, entry, reader))
    try:
        return await answer(narrator.end(reader), request)
    finally:
        register.detach(entry, reader)
