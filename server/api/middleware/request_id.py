"""The name of each request, and the answer to what nobody caught."""

from __future__ import annotations

import logging
import re
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import internal

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[!-~]{1,128}")
"""A request's own name for itself: at most 128 printable ASCII characters, so that it cannot forge a line of a log."""


class RequestIdMiddleware:
    """Outermost: names each request (`X-Request-Id`), and answers 500 for what nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        except Exception:
            log.exception("request %s: %s %s failed", request_id, scope["method"], quote(scope["path"]))
            if not started:
                await internal().response()(scope, receive, send_named)
