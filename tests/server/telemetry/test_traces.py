"""Spans of a live server, kept in memory by OpenTelemetry's own exporter."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import pairwise

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from server.telemetry import logs, traces
from tests.live_server import LiveServer, faked, serving, wait_until
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Those that have ended. The provider is the process's own only while a test runs."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def server_span(spans: InMemorySpanExporter) -> ReadableSpan:
    """The one of the request, once it has ended."""
    wait_until(lambda: any(span.kind == SpanKind.SERVER for span in spans.get_finished_spans()))
    (found,) = [span for span in spans.get_finished_spans() if span.kind == SpanKind.SERVER]
    return found


def children(spans: InMemorySpanExporter, parent: ReadableSpan) -> dict[str, tuple[int, int]]:
    """name -> from when to when, in nanoseconds."""
    found = {}
    for span in spans.get_finished_spans():
        if span.parent is not None and span.parent.span_id == parent.context.span_id:
            assert span.context.trace_id == parent.context.trace_id
            assert span.start_time is not None and span.end_time is not None
            found[span.name] = (span.start_time, span.end_time)
    return found


@pytest.mark.parametrize(("stream", "last"), [(True, "events"), (False, "text")])
def test_a_request_is_a_span_with_its_parts(
    live: LiveServer, spans: InMemorySpanExporter, stream: bool, last: str
) -> None:
    body = {"seq_len": 16, "stream": stream, "model": "uniform"}
    assert live.post("/sample", body, headers=TRACEPARENT | {"X-Request-Id": "mine"}).status_code == 200
    span = server_span(spans)
    assert span.name == "POST /sample" and span.attributes is not None and span.parent is not None
    assert trace.format_trace_id(span.context.trace_id) == TRACE
    assert trace.format_span_id(span.parent.span_id) == PARENT
    expected = {"http.route": "/sample", "http.response.status_code": 200, "td.outcome": "done", "td.model": "uniform"}
    assert expected.items() <= dict(span.attributes).items()
    assert span.attributes["td.request_id"] == "mine"
    parts = children(spans, span)
    assert list(parts) == ["queue", "sampling", last]
    assert span.start_time is not None and span.end_time is not None
    bounds = [span.start_time, *parts["queue"], *parts["sampling"], parts[last][1], span.end_time]
    slack = 50_000_000  # two clocks, read one after the other
    assert all(before <= after + slack for before, after in pairwise(bounds))
    assert parts["queue"][1] == pytest.approx(parts["sampling"][0], abs=1000)


def test_a_request_whose_client_left_has_the_parts_that_were(
    tiny: Mapping[str, Checkpoint], spans: InMemorySpanExporter
) -> None:
    slow, _ = faked(tiny["absorbing"], delay_s=0.01)
    with serving({"absorbing": slow}) as server:
        with server.reading("/sample", {"seq_len": 96, "num_inference_steps": 10_000}) as events:
            for _ in range(3):
                next(events)
        span = server_span(spans)
    assert span.attributes is not None and span.attributes["td.outcome"] == "left"
    assert list(children(spans, span)) == ["queue", "sampling", "events"]


def test_a_refused_request_has_no_parts_and_its_span_no_value_of_it(
    live: LiveServer, spans: InMemorySpanExporter
) -> None:
    live.post("/sample", {"seq_len": 16, "prompt": "secret", "top_p": 7.5})
    span = server_span(spans)
    assert span.attributes is not None and span.attributes["td.outcome"] == "invalid_request"
    assert children(spans, span) == {}
    # Not the whole span: its moments may hold any digits.
    said = repr((span.name, dict(span.attributes), span.status.description, span.events))
    assert "secret" not in said and "7.5" not in said


def test_probes_are_not_traced(live: LiveServer, spans: InMemorySpanExporter) -> None:
    for path in ("/health", "/ready", "/metrics", "/models"):
        live.get(path)
    assert server_span(spans).name == "GET /models"


def test_the_log_names_the_trace(
    live: LiveServer, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    class Capturing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(logs.JSONFormatter().format(record))  # where it is logged, as a handler of the root does

    handler = Capturing()
    caplog.set_level(logging.INFO, logger="server.access")
    logging.getLogger("server.access").addHandler(handler)
    try:
        live.get("/models", headers=TRACEPARENT)
    finally:
        logging.getLogger("server.access").removeHandler(handler)
    assert len(seen) == 1 and f'"trace_id": "{TRACE}"' in seen[0]


def test_without_a_provider_nothing_is_recorded(live: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    assert traces.trace_id() is None
    traces.describe(outcome="done")
    traces.add("queue", 0.0, 1.0)
    assert live.get("/models", headers=TRACEPARENT).status_code == 200
