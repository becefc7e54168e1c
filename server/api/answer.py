"""A whole answer, which may be long in coming: while it is, the client may leave."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from ..errors import CLIENT_LEFT, APIError


async def answer(body: Coroutine[Any, Any, BaseModel], request: Request) -> Response:
    """`body` as JSON, or the `APIError` that it raises, headers and all; it is cancelled when the client leaves.

    (An error of what was begun: one that is raised by a route says that nothing was.)
    """
    whole, left = asyncio.create_task(body), asyncio.create_task(_client_left(request))
    try:
        await asyncio.wait({whole, left}, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            return Response(status_code=CLIENT_LEFT)
        return JSONResponse(whole.result().model_dump(mode="json"))
    except APIError as error:
        return JSONResponse(error.event.model_dump(mode="json"), error.status_code, error.headers)
    finally:
        whole.cancel()
        left.cancel()


async def _client_left(request: Request) -> None:
    """Return when the client has; a handler that only computes is told by nobody else."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
