"""OpenTelemetry: the parts of a request as spans below the one that FastAPI makes of it.

FastAPI reads `traceparent`, makes the server's span and, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector and the SDK is
installed (`pip install '.[tracing]'`), sends it there. Without SDK or endpoint nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

TRACER = "token_diffusion.server"


def telemetry(excluded: Callable[[MutableMapping[str, Any]], bool]) -> TelemetryConfig:
    """What FastAPI shall record: requests but for those that are `excluded`, and no messages that may quote a body."""
    return {"auto_configure": True, "logs": False, "operation_spans": False, "exclude": excluded}


def trace_id() -> str | None:
    """The trace of the request that is being answered, as 32 hexadecimal digits; None if nothing is recorded."""
    found = trace.get_current_span().get_span_context()
    return trace.format_trace_id(found.trace_id) if found.is_valid else None


def describe(**attributes: str | int | float) -> None:
    """Say more of the request that is being answered; names get the prefix td."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({f"td.{name}": value for name, value in attributes.items()})


def add(name: str, start_s: float, end_s: float) -> None:
    """A part of the request that is being answered, from `start_s` to `end_s` in seconds since the epoch."""
    if trace.get_current_span().is_recording():
        span = trace.get_tracer(TRACER).start_span(name, start_time=int(start_s * 1e9))
        span.end(int(end_s * 1e9))
