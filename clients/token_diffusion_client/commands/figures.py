"""What came of a benchmark's requests, in the words of `vllm bench serve` where it has them."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..protocol.errors import SampleError
from ..protocol.events import Usage

PERCENTILES = (90, 99)

METRICS = {"ttfs": "Time to First State", "isl": "Inter-State Latency", "e2el": "End-to-End Latency"}


@dataclass
class Trace:
    """One request: when it was sent, when each state came, when it was done; seconds on one clock."""

    sent: float
    states: list[float] = field(default_factory=list)
    done: float | None = None
    usage: Usage | None = None
    error: Exception | None = None


def summary(traces: Sequence[Trace], duration_s: float) -> dict[str, Any]:
    """All figures, in milliseconds, or a second."""
    done = [trace for trace in traces if trace.done is not None]
    usages = [trace.usage for trace in done if trace.usage is not None]
    tokens = sum(usage.completion_tokens for usage in usages)
    nfe = sum(usage.nfe for usage in usages)
    figures: dict[str, Any] = {
        "duration": duration_s,
        "completed": len(done),
        "failed": len(traces) - len(done),
        "failures": dict(Counter(_kind(trace.error) for trace in traces if trace.error is not None)),
        "max_concurrent_requests": _most_at_once(traces),
        "total_input_tokens": sum(usage.prompt_tokens for usage in usages),
        "total_output_tokens": tokens,
        "total_nfe": nfe,
        "total_forwards_skipped": sum(usage.forwards_skipped for usage in usages),
        "request_throughput": len(done) / duration_s,
        "output_throughput": tokens / duration_s,
        "nfe_throughput": nfe / duration_s,
    }
    seconds = {
        "ttfs": [trace.states[0] - trace.sent for trace in done if trace.states],
        "isl": [late - early for trace in done for early, late in pairwise(trace.states)],
        "e2el": [trace.done - trace.sent for trace in done if trace.done is not None],
    }
    for name, values in seconds.items():
        figures |= _distribution(name, [1000 * value for value in values])
    return figures


def _kind(error: Exception) -> str:
    """How errors are counted: the server's by status and type, others by their class."""
    return f"{error.code} {error.type}" if isinstance(error, SampleError) else type(error).__name__


def _most_at_once(traces: Sequence[Trace]) -> int:
    """Of those that ended well."""
    ends = [(time, change) for trace in traces if trace.done for time, change in ((trace.sent, 1), (trace.done, -1))]
    running = most = 0
    for _, change in sorted(ends):
        running += change
        most = max(most, running)
    return most


def _distribution(name: str, values: list[float]) -> dict[str, float | None]:
    """None where there is nothing to tell of, as where every request failed."""
    values.sort()
    found = {
        "mean": statistics.fmean(values) if values else None,
        "median": percentile(values, 50),
        "std": statistics.pstdev(values) if values else None,
        **{f"p{q}": percentile(values, q) for q in PERCENTILES},
    }
    return {f"{statistic}_{name}_ms": value for statistic, value in found.items()}


def percentile(values: Sequence[float], q: float) -> float | None:
    """The value below which `q` % of the sorted `values` are, between two of them by proportion; None of none."""
    if not values:
        return None
    place = (len(values) - 1) * q / 100
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


def report(figures: dict[str, Any]) -> str:
    """The figures as lines, grouped as `vllm bench serve` prints them."""
    lines = [" Benchmark Result ".center(50, "=")]
    for name, title in (
        ("completed", "Successful requests:"),
        ("failed", "Failed requests:"),
        ("duration", "Benchmark duration (s):"),
        ("max_concurrent_requests", "Most requests at once:"),
        ("total_input_tokens", "Total input tokens:"),
        ("total_output_tokens", "Total generated tokens:"),
        ("total_nfe", "Forward passes (NFE):"),
        ("total_forwards_skipped", "Steps without a forward pass:"),
        ("request_throughput", "Request throughput (req/s):"),
        ("output_throughput", "Output token throughput (tok/s):"),
        ("nfe_throughput", "Forward pass throughput (nfe/s):"),
    ):
        lines.append(_line(title, figures[name]))
    lines += [_line(f"  failed with {kind}:", number) for kind, number in figures["failures"].items()]
    for name, title in METRICS.items():
        lines.append(title.center(50, "-"))
        for statistic in ("mean", "median", *(f"p{q}" for q in PERCENTILES)):
            spoken = f"{statistic[0].upper()}{statistic[1:]} {name.upper()} (ms):"
            lines.append(_line(spoken, figures[f"{statistic}_{name}_ms"]))
    return "\n".join([*lines, "=" * 50])


def _line(title: str, value: float | None) -> str:
    shown = "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
    return f"{title:<38}{shown:>12}"
