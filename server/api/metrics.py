"""The endpoint that a scraper asks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..errors import APIError
from ..metrics import Load, Metrics
from ..work.engine import Engine
from .admission import ServiceDep

router = APIRouter()

TEXT = {"schema": {"type": "string"}}
FORMATS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text, or OpenMetrics where Accept asks for it.",
        "content": {"text/plain": TEXT, "application/openmetrics-text": TEXT},
    }
}


@router.get("/metrics", tags=["state"], response_class=Response, responses=FORMATS)
async def metrics(request: Request, service: ServiceDep) -> Response:
    """How busy the server is, and what it has done since its start, in Prometheus' format."""
    counted: Metrics = request.app.state.metrics
    text, content_type = counted.exposition(_load(service.engine), request.headers.get("accept", ""))
    return Response(text, media_type=content_type)


def _load(engine: Engine) -> Load:
    jobs, waiting = engine.jobs.all, engine.jobs.num_waiting
    return Load(
        ready=_is_open(engine),
        draining=engine.draining,
        waiting=waiting,
        running=max(0, len(jobs) - waiting),
        work=sum(job.work for job in jobs),
        rows=engine.jobs.rows,
    )


def _is_open(engine: Engine) -> bool:
    try:
        engine.check_open()
    except APIError:
        return False
    return True
