"""Wrappers of plain ASGI: they see messages pass, and neither buffer a stream nor hide that its client left."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import APIError, internal, unavailable
from .proxies import route_path

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[!-~]{1,128}")
"""A request's own name for itself: at most 128 printable ASCII characters, so that it cannot forge a line of a log."""


PROBES = {"/health", "/ready"}
"""Answered however many connections there are."""


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


class CrowdMiddleware:
    """503 for all but the probes on a connection that came when there were as many as there may be (`crowded`)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get("state", {}).get("crowded") or route_path(scope) in PROBES:
            return await self.app(scope, receive, send)
        await unavailable("there are too many connections").response()(scope, receive, send)


class BodyLimitMiddleware:
    """413 for a body of more than `max_bytes`, at once if it says so, else as soon as that many have been read.

    408 for one that has not come whole within `timeout_s`: of connections, not of a request's own `timeout_s`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.max_bytes:
            return await self._too_large().response()(scope, receive, send)
        num_bytes, whole = 0, False
        due = asyncio.get_running_loop().time() + self.timeout_s

        async def receive_counted() -> Message:
            nonlocal num_bytes, whole
            try:
                async with asyncio.timeout_at(None if whole else due):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            num_bytes += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if num_bytes > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, receive_counted, send)

    def _too_slow(self) -> APIError:
        message = f"the body must be here within {self.timeout_s:g} s of its headers"
        return APIError(408, "timeout", message, headers={"Connection": "close"})

    def _too_large(self) -> APIError:
        message = f"the body must be at most {self.max_bytes} bytes"
        return APIError(413, "invalid_request", message, headers={"Connection": "close"})
