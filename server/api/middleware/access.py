"""What became of each request: a line in the log, counts, and what its span says. A stream is told when it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import CLIENT_LEFT, ErrorDetail
from ...owners.owner import Owner
from ...telemetry import logs, traces
from ...telemetry.metrics import Metrics
from ...work.jobs import Job
from .owners import owner_of
from .proxies import route_path

log = logging.getLogger("server.access")

PROBES = {"/health", "/ready", "/metrics"}
"""Asked every few seconds: in the log at the level debug alone, and in no trace."""

LONGEST_PATH = 200
"""Characters of a path that the log shows."""


def is_probe(scope: Any) -> bool:
    """Whether a request comes from who watches the server."""
    return scope["type"] == "http" and route_path(scope) in PROBES


class AccessMiddleware:
    """Inside `RequestIdMiddleware`, around everything else."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        visit = Visit(scope, receive, send, self.metrics)
        try:
            await self.app(scope, visit.receive, visit.send)
        finally:
            visit.close()


class Visit:
    """One request from its first message to its last.

    What others know of it stands in the scope's state: `request_id`, `owner`, `jobs` once there are any, and `error` if it
    was refused.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, metrics: Metrics) -> None:
        self._scope, self._receive, self._send, self._metrics = scope, receive, send, metrics
        self._state: dict[str, Any] = scope["state"]
        self._began, self._began_s = time.perf_counter(), time.time()
        self._answered = self._began
        self._status: int | None = None
        self._complete = self._left = self._closed = self._streams = False
        names = {"request_id": self._state["request_id"], "trace_id": traces.trace_id()}
        logs.context.set({name: value for name, value in names.items() if value is not None})

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._closed:
            self._left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._answered = message["status"], time.perf_counter()
            self._streams = Headers(scope=message).get("content-type", "").startswith("text/event-stream")
        elif not message.get("more_body", False):
            self._complete = True
            self.close()  # before it is sent, as the span ends with it
        await self._send(message)

    def close(self) -> None:
        """Tell what became of it, once."""
        if self._closed:
            return
        self._closed = True
        owner = owner_of(Request(self._scope))
        jobs: Sequence[Job[Any]] = self._state.get("jobs", ())
        self._count(jobs, owner)
        self._log(jobs, owner)
        self._trace(jobs, owner)

    @property
    def outcome(self) -> str:
        """done, left (the client did, before the end), or the type of the error that it was told."""
        if self._left:
            return "left"
        error: ErrorDetail | None = self._state.get("error")
        if error is not None:
            return error.type
        if jobs := self._state.get("jobs"):
            bad = [end for job in jobs if (end := job.stream.outcome or "internal") != "done"]
            if bad:  # one that fails cancels the others
                return next((end for end in bad if end != "cancelled"), "cancelled")
            return "done" if self._complete else "internal"
        if not self._complete or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return "internal"
        return "done" if self.status < HTTPStatus.BAD_REQUEST else "invalid_request"

    @property
    def status(self) -> int:
        """The one that was told, or else the one that would have been."""
        return self._status or (CLIENT_LEFT if self._left else HTTPStatus.INTERNAL_SERVER_ERROR.value)

    def _count(self, jobs: Sequence[Job[Any]], owner: Owner) -> None:
        route = self._scope.get("route")
        endpoint = getattr(route, "path", None) or "other"
        self._metrics.answered(endpoint, jobs[0].model if jobs else "", owner.key_name, self.outcome)
        if self._left:
            self._metrics.left()
        elif "error" in self._state and not is_probe(self._scope):
            self._metrics.refused(self.status, self.outcome)
        if merged := sum(job.stream.take_merged() for job in jobs):
            self._metrics.conflated(merged)

    def _log(self, jobs: Sequence[Job[Any]], owner: Owner) -> None:
        level = logging.DEBUG if is_probe(self._scope) else logging.INFO
        if not log.isEnabledFor(level):
            return
        fields: dict[str, Any] = {
            "client": owner.name,
            "method": self._scope["method"],
            "path": self._scope["path"][:LONGEST_PATH],
            "status": self.status,
            "outcome": self.outcome,
            "ms": round((time.perf_counter() - self._began) * 1e3, 1),
        }
        if jobs:
            fields |= _named(jobs)
        log.log(level, "request", extra={"fields": fields})

    def _trace(self, jobs: Sequence[Job[Any]], owner: Owner) -> None:
        """Queue, sampling, and what followed or went beside: the events of a stream, or else the text of the samples."""
        traces.describe(outcome=self.outcome, request_id=self._state["request_id"], client=owner.name)
        if not jobs or "error" in self._state:
            return
        traces.describe(**_named(jobs))
        streams, now = [job.stream for job in jobs], time.perf_counter()
        arrived = min(stream.arrived for stream in streams)
        joined = min(stream.arrived + stream.queue_ms / 1e3 if stream.queue_ms else now for stream in streams)
        ended = max(stream.arrived + stream.total_ms / 1e3 if stream.total_ms else now for stream in streams)
        self._add("queue", arrived, min(joined, ended))
        if joined < ended:
            self._add("sampling", joined, ended)
        if self._streams:
            self._add("events", self._answered, now)
        elif ended < now:
            self._add("text", ended, now)

    def _add(self, name: str, start: float, end: float) -> None:
        offset = self._began_s - self._began
        traces.add(name, start + offset, end + offset)


def _named(jobs: Sequence[Job[Any]]) -> dict[str, Any]:
    """What the jobs of one request are for, their price together, and the ids that the engine's log has for them."""
    first = jobs[0]
    named = {"model": first.model, "work": sum(job.work for job in jobs), "job": ",".join(job.id for job in jobs)}
    sampler = getattr(first.parameters, "sampler", None)  # of a score there is none
    return named if sampler is None else named | {"sampler": sampler}
