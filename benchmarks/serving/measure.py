"""What is read off a stream of events, over HTTP or straight from a batch, and what many of them add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ..figures import credit, median, percentile


@dataclass
class Trace:
    """One request's story. Times are seconds on one clock; states are (time, share of its steps done, nfe)."""

    label: str
    tokens: int
    sent: float
    states: list[tuple[float, float, int]] = field(default_factory=list)
    ended: float | None = None
    status: int = 200
    num_bytes: int = 0
    broken: bool = False
    """it ended without `done`, though nobody cut it off"""

    @property
    def first_state(self) -> float | None:
        """Seconds from sending to the first state."""
        return self.states[0][0] - self.sent if self.states else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between its states."""
        times = [time for time, _, _ in self.states]
        return [b - a for a, b in pairwise(times)]


@dataclass(frozen=True)
class Summary:
    """Of the traces in a window of time; seconds, and rates a second. Percentiles are NaN where nothing was seen.

    tokens: completion tokens, a request's counted as its steps are done, so that requests which begin or end outside
    the window count for what fell inside it. nfe: forward passes that requests had a part in, counted once for each.
    """

    tokens_per_s: float
    nfe_per_s: float
    requests_per_s: float
    first_state_p50: float
    first_state_p99: float
    gap_p50: float
    gap_p99: float
    total_p50: float
    total_p99: float
    finished: int
    rejected_share: float
    unfinished: int
    bytes_per_stream: float
    broken: int


def summarise(traces: Sequence[Trace], start: float, end: float) -> Summary:
    """Rates within (start, end]; latencies of all requests sent until its end, those of the warm-up included."""
    seconds = max(end - start, 1e-9)
    admitted = [trace for trace in traces if trace.status == 200]
    asked = [trace for trace in traces if trace.sent <= end]
    own = [trace for trace in asked if trace.status == 200]
    finished = [trace for trace in own if trace.ended is not None]
    first = [value for trace in own if (value := trace.first_state) is not None]
    gaps = [gap for trace in own for gap in trace.gaps]
    totals = [trace.ended - trace.sent for trace in finished if trace.ended is not None]
    shares = [(trace, [(time, share) for time, share, _ in trace.states]) for trace in admitted]
    calls = [[(time, float(nfe)) for time, _, nfe in trace.states] for trace in admitted]
    return Summary(
        sum(trace.tokens * credit(points, start, end) for trace, points in shares) / seconds,
        sum(credit(points, start, end) for points in calls) / seconds,
        sum(1 for trace in admitted if trace.ended is not None and start < trace.ended <= end) / seconds,
        median(first),
        percentile(first, 99),
        median(gaps),
        percentile(gaps, 99),
        median(totals),
        percentile(totals, 99),
        len(finished),
        sum(1 for trace in asked if trace.status == 429) / max(len(asked), 1),
        len(own) - len(finished),
        median([float(trace.num_bytes) for trace in finished]),
        sum(trace.broken for trace in traces),
    )
