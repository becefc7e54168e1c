"""Bodies that can be read cheaply, or are refused as cheaply: reading one must not hold up the event loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from ..errors import APIError, invalid

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
