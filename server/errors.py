"""Every error leaves as {"error": {message, type, param, code}}, before a stream as HTTP, within it as an event."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from reprlib import Repr
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from token_diffusion.errors import ParameterError

log = logging.getLogger(__name__)

RESTART_S = 5
"""Seconds after which a server that has stopped may be there again; a guess."""

CLIENT_LEFT = 499
"""No status of HTTP's own, but that of nginx and others: the client has ended its request."""

SOON = {"Retry-After": str(RESTART_S)}

FINAL = {"X-Should-Retry": "false"}
"""Obeyed by OpenAI's clients, which else send again whatever ends with 5xx: thrice the work for the same end."""

LONGEST_VALUE = 100
"""Characters of a value that a message quotes."""

QUOTING = Repr()
QUOTING.maxstring = QUOTING.maxlong = QUOTING.maxother = LONGEST_VALUE
"""How lists and objects are quoted: the first few members, six deep, however many there are and however deep they go."""


class ErrorDetail(BaseModel):
    """Why there is no answer; `param` names the field at fault, `code` is the HTTP status, or OpenAI's word for it."""

    message: str
    type: str
    param: str | None
    code: int | str


class ErrorEvent(BaseModel):
    """Body of every HTTP error, and the last event of a stream that ended badly."""

    error: ErrorDetail


class APIError(HTTPException):
    """An error that is told to the client as it is; `word` is told instead of the status `code`."""

    def __init__(
        self,
        code: int,
        type: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        word: str | None = None,
    ) -> None:
        super().__init__(code, message, headers)
        self.event = ErrorEvent(error=ErrorDetail(message=message, type=type, param=param, code=word or code))

    def response(self) -> ErrorResponse:
        return ErrorResponse(self)


class ErrorResponse(JSONResponse):
    """An error as a whole answer, which the request's state (`error`) keeps for those who count answers."""

    def __init__(self, error: APIError) -> None:
        super().__init__(error.event.model_dump(), error.status_code, error.headers)
        self._detail = error.event.error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["error"] = self._detail
        await super().__call__(scope, receive, send)


def invalid(message: str, param: str | None = None) -> APIError:
    """422: a request that can be read, but not be served."""
    return APIError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", message, param)


def unauthorized() -> APIError:
    """401: there are API keys, and the request came with none of them."""
    message = "an API key is needed: Authorization: Bearer KEY"
    return APIError(HTTPStatus.UNAUTHORIZED, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


def rate_limited(name: str, work_per_s: float, retry_after_s: int) -> APIError:
    """429: the holder of a key has asked for more than it may."""
    message = f"{name} may ask for {work_per_s:g} token passes a second; try again in {retry_after_s} s"
    return APIError(HTTPStatus.TOO_MANY_REQUESTS, "rate_limited", message, headers={"Retry-After": str(retry_after_s)})


def overloaded(retry_after_s: int) -> APIError:
    """429: too much work is outstanding, of this client or of all."""
    message = f"too much work is outstanding; try again in {retry_after_s} s"
    return APIError(HTTPStatus.TOO_MANY_REQUESTS, "overloaded", message, headers={"Retry-After": str(retry_after_s)})


def crowded(max_readers: int) -> APIError:
    """429: as many read this request as may."""
    return APIError(
        HTTPStatus.TOO_MANY_REQUESTS, "crowded", f"this request has {max_readers} readers already", headers=SOON
    )


def unavailable(message: str) -> APIError:
    """503: no work is taken, until somebody starts a server again."""
    return APIError(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message, headers=SOON)


def stalled(seconds: float) -> APIError:
    """503: the engine is in a step that does not end."""
    return unavailable(f"the engine has not finished a step for {seconds:.1f} s")


def timeout(seconds: float) -> APIError:
    """504: the time that the client or the server allows is over."""
    message = f"not finished within {seconds:g} s"
    return APIError(HTTPStatus.GATEWAY_TIMEOUT, "timeout", message, "timeout_s", FINAL)


def cancelled() -> APIError:
    """499, as proxies log a client that has left: somebody who may has ended the request."""
    return APIError(CLIENT_LEFT, "cancelled", "the request was cancelled")


def not_found(message: str) -> APIError:
    """404: there is no such thing, or none for this client."""
    return APIError(HTTPStatus.NOT_FOUND, "not_found", message)


def shutdown() -> APIError:
    """503 for a request that was running when the server had to stop."""
    return APIError(HTTPStatus.SERVICE_UNAVAILABLE, "shutdown", "the server is stopping", headers=SOON)


def internal() -> APIError:
    """500: the log knows why, the client is not told."""
    return APIError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "internal error; the server's log says more")


def parameter(error: ParameterError) -> APIError:
    """The core's refusal, its value quoted in at most `LONGEST_VALUE` characters."""
    return invalid(f"{error.name} must {error.rule}, got {_quote(error.value)}", error.name)


def _quote(value: object) -> str:
    return _printable(repr(value) if isinstance(value, str | int | float | None) else QUOTING.repr(value))


def _printable(text: str) -> str:
    """What a client sent, fit for a message: not too long, and without the surrogates that UTF-8 cannot hold."""
    shown = text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
    return shown.encode("utf-8", "backslashreplace").decode()


def _validation(error: RequestValidationError) -> APIError:
    """The first of pydantic's complaints, as name, rule and value."""
    first: dict[str, Any] = error.errors()[0]
    name = _printable(".".join(str(part) for part in first["loc"][1:]))
    if first["type"] == "json_invalid":
        reason = f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
        return APIError(HTTPStatus.BAD_REQUEST, "invalid_request", reason)
    if first["type"] == "extra_forbidden":
        return invalid(f"{name} is not a field of this request, got {_quote(first['input'])}", name)
    if first["type"] == "string_unicode":  # values with half a character are read, and refused where they are text
        return invalid(f"{_quote(first['input'])} is not a field of {name or 'this request'}", name or None)
    if first["type"] == "missing" and name:
        return invalid(f"{name} must be given", name)
    if not name:
        return invalid("the body must be a JSON object, sent with Content-Type: application/json")
    if first["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return invalid(f"{name} must be an object, got {_quote(first['input'])}", name)
    rule = first["msg"].removeprefix("Input should ").removeprefix("Value error, ")
    return invalid(f"{name} must {rule}, got {_quote(first['input'])}", name)


def install_error_handlers(app: FastAPI) -> None:
    """Give all errors of `app` the one envelope; what nobody foresaw is left to `RequestIdMiddleware`."""

    @app.exception_handler(APIError)
    async def api_error(request: Request, error: APIError) -> JSONResponse:
        return error.response()

    @app.exception_handler(ParameterError)
    async def parameter_error(request: Request, error: ParameterError) -> JSONResponse:
        return parameter(error).response()

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        return _validation(error).response()

    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
        type = "not_found" if error.status_code == HTTPStatus.NOT_FOUND else "invalid_request"
        message = f"{request.method} {request.url.path}: {error.detail}"
        return APIError(error.status_code, type, message, headers=error.headers).response()
