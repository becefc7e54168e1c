"""What /docs says of the answers that FastAPI cannot infer: a stream of events, or the last of them as JSON."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from ..errors import ErrorEvent
from .protocol import EVENT_NAMES, DoneEvent

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


SAMPLE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `start`, then `state` and `block`, and at the end `done` or `error`; "
        'with `"stream": false` the object of `done` alone.',
        "model": DoneEvent,
        "content": {
            "text/event-stream": {
                "itemSchema": {"oneOf": [_event_schema(name, model.__name__) for model, name in EVENT_NAMES.items()]}
            }
        },
    },
    400: {"model": ErrorEvent, "description": "The body is not JSON."},
    401: {"model": ErrorEvent, "description": "The API key is missing or wrong."},
    408: {"model": ErrorEvent, "description": "The body did not arrive in time."},
    413: {"model": ErrorEvent, "description": "The body is too large."},
    422: {"model": ErrorEvent, "description": "A field is unknown or out of range, or no loaded checkpoint fits."},
    429: {"model": ErrorEvent, "description": "The queue is full; Retry-After says when to come again."},
    500: {"model": ErrorEvent, "description": "A fault of the server."},
    503: {"model": ErrorEvent, "description": "The server is stopping."},
    504: {"model": ErrorEvent, "description": 'The time is over; with `"stream": true` an `error` event says so.'},
}


class DocumentedAPI(FastAPI):
    """FastAPI whose OpenAPI also holds the schemas of the events, which no route returns as a whole."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            _, events = models_json_schema([(model, "serialization") for model in EVENT_NAMES], ref_template=REFERENCE)
            schema["components"]["schemas"] |= events["$defs"]
        return super().openapi()
