"""What is counted and timed, in Prometheus' terms: one method an event, called where it happens.

Names, labels and buckets are all here. A label's values come from the server alone (routes, loaded models, kinds of errors,
names in the file of API keys), never from what a client sent, so that nobody can make series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

disable_created_metrics()  # a second series beside each counter, which says when it began

REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)
STEP_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
TEXT_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)

REASONS = {400: "malformed", 405: "malformed", 408: "slow_body", 413: "too_large", 422: "invalid"}
"""Why a request was refused, by the status that told it, where that says more than the type of its error."""


@dataclass(frozen=True)
class Load:
    """How the server is at the moment of a scrape.

    waiting, running: requests. work: tokens x forward passes that they may still need. rows: those that are resident.
    """

    ready: bool
    draining: bool
    waiting: int
    running: int
    work: int
    rows: int


class Metrics:
    """The metrics of one app, in a registry of their own. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"td_{name}", help, labels, registry=self.registry)

        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(f"td_{name}", help, labels, registry=self.registry)

        def histogram(name: str, help: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"td_{name}", help, labels, buckets=buckets, registry=self.registry)

        self._requests = counter("requests", "HTTP requests answered", "endpoint", "model", "outcome")
        self._rejected = counter("requests_rejected", "Requests refused before they were sampled", "reason")
        self._aborted = counter("requests_aborted", "Requests whose client left before the end")
        self._owner_requests = counter("owner_requests", "Requests by the holder of an API key", "owner", "outcome")
        self._owner_tokens = counter("owner_tokens", "Tokens sampled for the holder of an API key", "owner")

        self._queue = histogram("request_queue_time_seconds", "From arrival to the first step", REQUEST_S, "model")
        self._first = histogram("time_to_first_state_seconds", "From arrival to the first state", REQUEST_S, "model")
        self._total = histogram("e2e_request_latency_seconds", "From arrival to the last state", REQUEST_S, "model")
        self._tokens = counter("tokens", "Completion tokens of finished requests", "model")
        self._nfe = counter("nfe", "Forward passes that finished requests had a part in, summed over them", "model")
        self._skipped = counter("forwards_skipped", "Steps of finished requests that needed no forward pass", "model")
        self._conflated = counter("frames_conflated", "States merged as their reader had not read the one before")

        self._step = histogram("step_duration_seconds", "An engine's step: plan, forward pass, commit", STEP_S)
        self._step_rows = histogram("step_batch_size", "Rows in a step", ROWS)
        self._step_tokens = histogram("step_tokens", "Tokens in a step, padding included", TOKENS)
        self._failed_steps = counter("failed_steps", "Steps that raised, or whose logits were not finite")
        self._text = histogram("text_seconds", "A turn of the text thread: tokenising or decoding", TEXT_S)

        self._ready = gauge("ready", "1 if new work is taken, as /ready says")
        self._draining = gauge("draining", "1 once the server has been told to stop")
        self._waiting = gauge("requests_waiting", "Requests that are admitted and wait")
        self._running = gauge("requests_running", "Requests whose rows are denoised")
        self._work = gauge("outstanding_work", "Tokens x forward passes that admitted requests may still need")
        self._rows = gauge("resident_rows", "Rows that are denoised, or about to be")
        self._build = gauge("build_info", "1; what is running, by its labels", "version", "torch", "device", "dtype")

    # Told by the engine's thread.

    def step(self, seconds: float, rows: int, tokens: int) -> None:
        """The engine has taken a step."""
        self._step.observe(seconds)
        self._step_rows.observe(rows)
        self._step_tokens.observe(tokens)

    def step_failed(self) -> None:
        """A step, or a request's part of one, had no outcome."""
        self._failed_steps.inc()

    def begun(self, model: str, queue_ms: float) -> None:
        """A request's first step has begun."""
        self._queue.labels(model).observe(queue_ms / 1e3)

    def first_state(self, model: str, first_state_ms: float) -> None:
        """A request has been stepped for the first time."""
        self._first.labels(model).observe(first_state_ms / 1e3)

    def finished(self, model: str, owner: str | None, total_ms: float, tokens: int, nfe: int, skipped: int) -> None:
        """A request has all its samples. `owner` is the name of the API key's holder, if there is one."""
        self._total.labels(model).observe(total_ms / 1e3)
        self._tokens.labels(model).inc(tokens)
        self._nfe.labels(model).inc(nfe)
        self._skipped.labels(model).inc(skipped)
        if owner is not None:
            self._owner_tokens.labels(owner).inc(tokens)

    # Told by the event loop and the text thread.

    def conflated(self, count: int) -> None:
        """So many states of one request were merged into another, as its reader was slow."""
        self._conflated.inc(count)

    def text(self, seconds: float) -> None:
        """The text thread has worked so long on one thing."""
        self._text.observe(seconds)

    def answered(self, endpoint: str, model: str, owner: str | None, outcome: str) -> None:
        """A request is over; `outcome` is done, left, or the type of its error."""
        self._requests.labels(endpoint, model, outcome).inc()
        if owner is not None:
            self._owner_requests.labels(owner, outcome).inc()

    def refused(self, status: int, type: str) -> None:
        """A request was answered with an error of this type before there was anything to sample."""
        self._rejected.labels(REASONS.get(status, type)).inc()

    def left(self) -> None:
        """A client went before its request was over."""
        self._aborted.inc()

    # Asked by a scraper.

    def describe(self, version: str, torch: str, device: str, dtype: str) -> None:
        """What is running."""
        self._build.labels(version, torch, device, dtype).set(1)

    def exposition(self, load: Load, accept: str) -> tuple[bytes, str]:
        """Everything, as text, and the type of that text: the one of Prometheus' formats that `accept` prefers."""
        self._ready.set(load.ready)
        self._draining.set(load.draining)
        self._waiting.set(load.waiting)
        self._running.set(load.running)
        self._work.set(load.work)
        self._rows.set(load.rows)
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
