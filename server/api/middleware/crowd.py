"""Who is answered when there are as many connections as there may be."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ...errors import unavailable
from .proxies import route_path

PROBES = {"/health", "/ready"}
"""Answered however many connections there are."""


class CrowdMiddleware:
    """503 for all but the probes on a connection that came when there were as many as there may be (`crowded`)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get("state", {}).get("crowded") or route_path(scope) in PROBES:
            return await self.app(scope, receive, send)
        await unavailable("there are too many connections").response()(scope, receive, send)
