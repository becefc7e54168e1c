"""The endpoint that a scraper asks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ...errors import APIError
from ...telemetry.metrics import Load, Metrics
from ...work.engine import Engine
from ..admission import OpeningDep, Service

router = APIRouter()

TEXT = {"schema": {"type": "string"}}
FORMATS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text, or OpenMetrics where Accept asks for it.",
        "content": {"text/plain": TEXT, "application/openmetrics-text": TEXT},
    }
}


@router.get("/metrics", tags=["state"], response_class=Response, responses=FORMATS)
async def metrics(request: Request, service: OpeningDep) -> Response:
    """How busy the server is, and what it has done since its start, in Prometheus' format."""
    counted: Metrics = request.app.state.metrics
    text, content_type = counted.exposition(_load(service), request.headers.get("accept", ""))
    return Response(text, media_type=content_type)


def _load(service: Service | None) -> Load:
    if service is None:
        return Load(ready=False, draining=False, waiting=0, running=0, work=0, rows=0)
    jobs = service.engine.jobs
    return Load(
        ready=_is_ready(service.engine),
        draining=service.engine.draining,
        waiting=jobs.num_waiting,
        running=jobs.num_running,
        work=jobs.work,
        rows=jobs.rows,
    )


def _is_ready(engine: Engine) -> bool:
    try:
        engine.check_ready()
    except APIError:
        return False
    return True
