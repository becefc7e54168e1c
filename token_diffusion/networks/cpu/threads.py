"""How many CPUs this process may use, and the threads that run a network on them.

torch counts the machine's cores or the affinity mask. In a container with a quota that is too many: whoever has used up the
quota before the period ends stands still until the next, and threads that wait for another at the end of each loop use it up by
waiting. So where nobody has said how many threads there shall be, there are no more than the quota has whole CPUs: of 1.5, one,
as a second thread would be stopped for half of each period, and the first waits for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

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


def available_cpus(root: Path = Path("/")) -> float:
    """CPUs that this process may keep busy: those of its affinity mask, or fewer by the tightest quota above it.

    root: of the file system in which the control groups are looked up.
    """
    return min([float(affinity()), *_quotas(root)])


def affinity() -> int:
    """CPUs that the scheduler may put this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """In CPUs, of this process's control groups and of those around them, as far as they can be seen from here."""
    for mount, inside in _groups(root):
        top = root / mount.relative_to("/")
        group = top / inside
        for folder in [group, *group.parents]:
            quota = _quota(folder)
            if quota is not None:
                yield quota
            if folder == top:
                break


def _groups(root: Path) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """Where control groups that know of CPUs are mounted, each with this process's own group in there."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # no Linux, or no /proc
        return
    # "4:cpu,cpuacct:/a/b" of version 1; "0::/a/b" of version 2, which has one hierarchy for everything.
    ours = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            ours["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    for line in mounts:
        # "36 35 0:30 /docker/1f /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu": root of the mount, then its place.
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in ours or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        mounted, place = (PurePosixPath(_unescaped(part)) for part in before.split(" ")[3:5])
        # A namespace may show a path that is not below what is mounted: then what is mounted is the group itself.
        below = ours[kind].is_relative_to(mounted) and ".." not in ours[kind].parts
        yield place, ours[kind].relative_to(mounted) if below else PurePosixPath()


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


def _unescaped(path: str) -> str:
    r"""A path of mountinfo, in which blanks and backslashes are \040 and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
