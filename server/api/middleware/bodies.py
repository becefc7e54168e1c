"""Bodies that can be read cheaply, or are refused as cheaply: reading one must not hold up the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import APIError, invalid

MAX_FIELDS = 64
"""Fields of a body: more than any request has. Each that is unknown or wrong would be complained of, at some microseconds."""


class BoundedRequest(Request):
    """A request whose JSON is refused before it is looked at, where looking at it would take long or go deep."""

    async def json(self) -> Any:
        """What the body holds. Raises APIError: 400 if it is not JSON, 422 for more than `MAX_FIELDS` fields."""
        try:
            parsed = await super().json()
        except json.JSONDecodeError:
            raise  # FastAPI tells where
        except UnicodeDecodeError:
            raise _unreadable("it is not UTF-8") from None
        except RecursionError:
            raise _unreadable("it is nested too deeply") from None
        except ValueError:
            raise _unreadable("a number has too many digits") from None
        if isinstance(parsed, dict) and len(parsed) > MAX_FIELDS:
            raise invalid(f"the body must have at most {MAX_FIELDS} fields, got {len(parsed)}")
        return parsed


class BoundedRoute(APIRoute):
    """A route whose requests are `BoundedRequest`s."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            return await handle(BoundedRequest(request.scope, request.receive))

        return handle_bounded


def _unreadable(reason: str) -> APIError:
    return APIError(HTTPStatus.BAD_REQUEST, "invalid_request", f"the body cannot be read as JSON: {reason}")


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
        if self._announced(scope) > self.max_bytes:
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

    def _announced(self, scope: Scope) -> int:
        """Bytes of the body by Content-Length, 0 without any; at most 20 digits, but any number of zeros may come before them."""
        announced = Headers(scope=scope).get("content-length", "").lstrip("0")
        return int(announced) if announced.isdecimal() else 0

    def _too_slow(self) -> APIError:
        message = f"the body must be here within {self.timeout_s:g} s of its headers"
        return APIError(408, "timeout", message, headers={"Connection": "close"})

    def _too_large(self) -> APIError:
        message = f"the body must be at most {self.max_bytes} bytes"
        return APIError(413, "invalid_request", message, headers={"Connection": "close"})
