"""Where the time of a training step goes, by torch's profiler: matrix products, casts, the optimizer, all else."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "casts and copies": ("aten::copy_",),
    "dropout": ("aten::bernoulli_",),
}
"""What the profiler calls them; what the optimizer does is counted apart."""
OPTIMIZER = "Optimizer.step#"


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Kind -> its share of the CPU's time in `work`; they add up to 1."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    events = found.key_averages()
    own = {event.key: event.self_cpu_time_total for event in events}
    parts = {kind: sum(own.get(name, 0.0) for name in names) for kind, names in KINDS.items()}
    # accelerate's optimizer has torch's within it
    parts["optimizer"] = max((e.cpu_time_total for e in events if e.key.startswith(OPTIMIZER)), default=0.0)
    total = sum(own.values())
    parts["all else"] = total - sum(parts.values())
    return {kind: part / total for kind, part in parts.items()}
