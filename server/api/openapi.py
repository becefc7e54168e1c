"""What openapi.json says beyond what FastAPI can infer: streams of events, errors, keys, and the limits of this server."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from ..errors import APIError, ErrorEvent
from ..settings import Settings
from .middleware.owners import OPEN_PATHS
from .middleware.proxies import route_path
from .protocol.events import EVENT_NAMES, DoneEvent

REFERENCE = "#/components/schemas/{model}"


def _event_schema(name: str, model: str) -> dict[str, Any]:
    """One server-sent event, in the words of OpenAPI 3.2."""
    content = {"$ref": REFERENCE.format(model=model)}
    return {
        "type": "object",
        "required": ["event", "data", "id"],
        "properties": {
            "event": {"const": name},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": content},
            "id": {"type": "string"},
            "retry": {"type": "integer", "minimum": 0},
        },
    }


EVENTS = {
    "text/event-stream": {
        "itemSchema": {"oneOf": [_event_schema(name, model.__name__) for model, name in EVENT_NAMES.items()]}
    }
}

SAMPLE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `start`, then `state` and `block`, and at the end `done` or `error`; "
        'with `"stream": false` the object of `done` alone. A stream tells its id in X-Sample-Id.',
        "model": DoneEvent,
        "content": EVENTS,
    },
    400: {"model": ErrorEvent, "description": "The body is not JSON."},
    408: {"model": ErrorEvent, "description": "The body did not arrive in time."},
    413: {"model": ErrorEvent, "description": "The body is too large."},
    422: {"model": ErrorEvent, "description": "A field is unknown or out of range, or no loaded checkpoint fits."},
    429: {"model": ErrorEvent, "description": "The server is full; Retry-After says when to come again."},
    504: {"model": ErrorEvent, "description": 'The time is over; with `"stream": true` an `error` event says so.'},
}

TEXT_RESPONSES: dict[int | str, dict[str, Any]] = {
    **{code: SAMPLE_RESPONSES[code] for code in (400, 408, 413)},
    422: {"model": ErrorEvent, "description": "A field is unknown or wrong, or the text or its ids are too many."},
    504: {"model": ErrorEvent, "description": "The time is over."},
}
"""Of a request that is for a text alone."""

SCORE_RESPONSES: dict[int | str, dict[str, Any]] = {
    **{code: SAMPLE_RESPONSES[code] for code in (400, 408, 413, 422, 429)},
    504: {"model": ErrorEvent, "description": "The time is over."},
}

EVERYWHERE = {
    "500": "A fault of the server.",
    "503": "The server is not ready, or stopping.",
}
GUARDED = {"401": "The API key is missing or wrong."}

LIMITS = {
    "num_samples": "max_num_samples",
    "seq_len": "max_seq_len",
    "num_inference_steps": "max_num_inference_steps",
    "num_times": "max_num_times",
    "timeout_s": "request_timeout_s",
}
"""Field of a request -> setting that bounds it."""
REQUEST_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: {
        "model": ErrorEvent,
        "description": "No request of this id, or somebody else's, or one that is kept no longer.",
    },
}
"""Of a request that is asked for by its id."""


class DocumentedAPI(FastAPI):
    """FastAPI whose OpenAPI tells all answers, all events, who needs a key, and the limits of `settings`."""

    def __init__(self, *, settings: Settings, **options: Any) -> None:
        # Swagger UI's own page comes from a CDN; redirects go to whatever host a request names.
        super().__init__(docs_url=None, redoc_url=None, redirect_slashes=False, **options)
        self._settings = settings
        self._document: dict[str, Any] | None = None
        self.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, self._no_such_method)

    def openapi(self) -> dict[str, Any]:
        if self._document is None:
            document = super().openapi()
            _, events = models_json_schema(
                [(model, "serialization") for model in (*EVENT_NAMES, ErrorEvent)], ref_template=REFERENCE
            )
            document["components"]["schemas"] |= events["$defs"]
            for path, item in document["paths"].items():
                for operation in item.values():
                    self._complete(path, operation)
            for name, schema in document["components"]["schemas"].items():
                if name.endswith(("SampleRequest", "ScoreRequest")):
                    self._limit(schema["properties"])
            if self._settings.is_guarded:
                document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            self._document = document
        return self._document

    async def _no_such_method(self, request: Request, error: Exception) -> Response:
        """405 with all methods of a path; Starlette names those of the first route alone."""
        path = route_path(request.scope)
        methods = {
            method.upper()
            for template, item in self.openapi()["paths"].items()
            if compile_path(template)[0].match(path)
            for method in item
        }
        message = f"{request.method} {request.url.path}: Method Not Allowed"
        allow = {"Allow": ", ".join(sorted(methods or {"GET"}))}
        return APIError(HTTPStatus.METHOD_NOT_ALLOWED, "invalid_request", message, headers=allow).response()

    def _complete(self, path: str, operation: dict[str, Any]) -> None:
        """The answers that any operation may give, all errors in the one envelope, and whether a key is needed."""
        common = dict(EVERYWHERE)
        if self._settings.is_guarded and path not in OPEN_PATHS:
            common |= GUARDED
            operation["security"] = [{"key": []}]
        responses = operation["responses"]
        for code, description in common.items():
            responses.setdefault(code, {"description": description})
        for code, response in responses.items():
            if code >= "4":
                response["content"] = {"application/json": {"schema": {"$ref": REFERENCE.format(model="ErrorEvent")}}}
        operation["responses"] = dict(sorted(responses.items()))

    def _limit(self, fields: dict[str, Any]) -> None:
        """What a request may ask for here; where it does not ask, its default is within that, too."""
        if "texts" in fields:
            fields["texts"]["maxItems"] = self._settings.max_num_texts
        for field in LIMITS.keys() & fields.keys():
            schema, limit = fields[field], getattr(self._settings, LIMITS[field])
            schema["default"] = min(schema["default"], limit)
            for option in schema.get("anyOf", [schema]):
                if option.get("type") != "null":
                    option["maximum"] = limit
