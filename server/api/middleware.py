"""Wrappers of plain ASGI: they see messages pass, and neither buffer a stream nor hide that its client left."""

from __future__ import annotations

import logging
import re
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import APIError, internal

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


class BodyLimitMiddleware:
    """413 for a body of more than `max_bytes`, at once if it says so, else as soon as that many have been read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.max_bytes:
            return await self._too_large().response()(scope, receive, send)
        num_bytes = 0

        async def receive_counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, receive_counted, send)

    def _too_large(self) -> APIError:
        message = f"the body must be at most {self.max_bytes} bytes"
        return APIError(413, "invalid_request", message, headers={"Connection": "close"})
