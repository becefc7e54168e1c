"""How many CPUs this process may use, and the threads that run a network on them.

torch counts the machine's cores or the affinity mask. In a container with a quota that is too many: whoever has used up the
quota before the period ends stands still until the next, and threads that wait for another at the end of each loop use it up by
waiting. So where nobody has said how many threads there shall be, there are no more than the quota has whole CPUs: of 1.5, one,
as a second thread would be stopped for half of each period, and the first waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .control_groups import folders

SAID = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""By either of these the environment says how many threads there shall be."""


def set_threads(asked: int | None = None) -> int:
    """Run networks of this process on `asked` threads, or without it on as many as it has CPUs. Returns how many that are.

    Call it before the first forward pass, and not again: another number of threads may round differently.
    """
    if asked is None and not any(os.environ.get(name) for name in SAID):
        asked = min(torch.get_num_threads(), max(1, int(available_cpus())))
    if asked is not None and asked != torch.get_num_threads():
        torch.set_num_threads(asked)
    return torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """In here torch computes in the caller's thread alone, which is where another library has threads of its own for the most.

    Torch's go on waiting for milliseconds after what they computed, busily: the others would find half of two cores taken.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available_cpus(root: Path = Path("/")) -> float:
    """CPUs that this process may keep busy: those of its affinity mask, or fewer by the tightest quota above it.

    root: of the file system in which the control groups are looked up.
    """
    return min([float(affinity()), *_quotas(root)])


def affinity() -> int:
    """CPUs that the scheduler may put this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """In CPUs, of this process's control groups and of those around them."""
    for folder in folders("cpu", root):
        quota = _quota(folder)
        if quota is not None:
            yield quota


def _quota(folder: Path) -> float | None:
    """Of one group, of either version; None without one."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return None
