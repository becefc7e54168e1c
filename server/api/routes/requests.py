"""The endpoints of a request that was sent before: end it, ask how far it is, read on where a connection broke."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from token_diffusion.errors import ParameterError

from ...errors import ErrorEvent
from ...work.deadline import Deadline
from ...work.register import Entry
from ..admission import Service, ServiceDep
from ..events import EventStream, Narrator
from ..middleware.owners import owner_of
from ..openapi import EVENTS, REQUEST_RESPONSES
from ..protocol.events import RequestStatus

router = APIRouter(tags=["requests"])


async def _entry(id: str, request: Request, service: ServiceDep) -> Entry:
    return service.register.find(id, owner_of(request))


EntryDep = Annotated[Entry, Depends(_entry)]


@router.delete("/requests/{id}", status_code=204, responses=REQUEST_RESPONSES)
async def cancel(entry: EntryDep, service: ServiceDep) -> None:
    """End a request: its streams end with an error of type cancelled. One that has ended already is kept no longer."""
    service.register.cancel(entry)


@router.get(
    "/requests/{id}",
    responses=REQUEST_RESPONSES | {504: {"model": ErrorEvent, "description": "The text was not read in time."}},
)
async def status(entry: EntryDep, service: ServiceDep) -> RequestStatus:
    """How far a request is, and its answer once there is one, for who would rather ask now and then."""
    job, stream = entry.job, entry.job.stream
    result, error = stream.result, stream.error
    return RequestStatus(
        id=job.id,
        model=job.model,
        status=_status(entry),
        step=stream.step,
        t=stream.t,
        nfe=stream.nfe,
        num_inference_steps=job.parameters.num_inference_steps,
        done=None if result is None else await _narrator(entry, service).answer(result),
        error=None if error is None else error.event.error,
    )


@router.get(
    "/requests/{id}/events",
    response_class=StreamingResponse,
    responses=REQUEST_RESPONSES
    | {
        200: {"description": "The events that come after the last one, or all of them.", "content": EVENTS},
        422: {"model": ErrorEvent, "description": "Last-Event-ID is not the id of an event of this request."},
        429: {"model": ErrorEvent, "description": "As many read this request as may."},
    },
)
async def events(
    entry: EntryDep,
    service: ServiceDep,
    request: Request,
    last_event_id: Annotated[str | None, Header()] = None,
    last_event_id_in_url: Annotated[str | None, Query(alias="last_event_id")] = None,
) -> Response:
    """Read a request that runs, or is kept: the whole of it, its first steps in one, or what came after Last-Event-ID.

    What comes after begins with a keyframe. A request that has ended ends with its last event again.
    """
    request.state.jobs = [entry.job]
    given = last_event_id or last_event_id_in_url
    narrator = _narrator(entry, service, None if given is None else _number(given))
    reader = service.register.attach(entry, narrator.place)
    return EventStream(entry.job.id, narrator.events(reader), partial(service.register.detach, entry, reader))


def _narrator(entry: Entry, service: Service, after: int | None = None) -> Narrator:
    """One that takes for the texts of its reader, who may come when all is over, as long as the request might take."""
    checkpoint = service.engine.checkpoints[entry.job.model]
    return Narrator(entry.job, checkpoint, service.text, Deadline.after(entry.deadline.seconds), after)


def _status(entry: Entry) -> Literal["waiting", "running", "done", "failed"]:
    stream = entry.job.stream
    if stream.ended:
        return "done" if stream.error is None else "failed"
    return "running" if stream.place.updates else "waiting"


def _number(given: str) -> int:
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise ParameterError("Last-Event-ID", "be the id of an event of this request", given)
    return int(given)
