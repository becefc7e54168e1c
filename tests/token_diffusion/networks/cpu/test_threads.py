"""Control groups of both versions, as the files that show them, and what becomes of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from token_diffusion.networks.cpu.threads import available_cpus, set_threads

V1 = "30 25 0:28 {mounted} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "31 25 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
V2 = "30 25 0:28 {mounted} {place} rw,nosuid - cgroup2 cgroup rw,nsdelegate"


@pytest.fixture(autouse=True)
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("token_diffusion.networks.cpu.threads.affinity", lambda: 64)


def tree(root: Path, cgroup: str, mounts: str, quotas: dict[str, str]) -> Path:
    """A file system with these two files of /proc/self, and with `quotas`, by path."""
    for path, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **quotas}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root


def v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    path = f"sys/fs/cgroup/cpu,cpuacct/{folder}"
    return {f"{path}/cpu.cfs_quota_us": str(quota), f"{path}/cpu.cfs_period_us": str(period)}


def v2(mounted: str = "/", place: str = "/sys/fs/cgroup") -> str:
    return V2.format(mounted=mounted, place=place)


@pytest.mark.parametrize(
    ("cgroup", "mounts", "quotas", "cpus"),
    [
        # As `docker run --cpus=1.5` shows it: the container's group is all there is.
        ("0::/", v2(), {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ("0::/", v2(), {"sys/fs/cgroup/cpu.max": "max 100000"}, 64),
        # Nested: the tightest on the way up, wherever it is.
        ("0::/a/b", v2(), {"sys/fs/cgroup/a/cpu.max": "50000 25000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 2),
        ("0::/a/b", v2(), {"sys/fs/cgroup/a/cpu.max": "max 1000", "sys/fs/cgroup/a/b/cpu.max": "300000 100000"}, 3),
        # A neighbour's quota is not ours.
        ("0::/a/b", v2(), {"sys/fs/cgroup/a/c/cpu.max": "100000 100000"}, 64),
        # Only a part of the hierarchy is mounted.
        ("0::/pods/x/y", v2("/pods/x"), {"sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        ("0::/pods/x/y", v2("/pods/x"), {"sys/fs/cgroup/y/cpu.max": "400000 100000"}, 4),
        # Seen from another namespace than its own.
        ("0::/../other", v2(), {"sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        # More than there are.
        ("0::/", v2(), {"sys/fs/cgroup/cpu.max": "9000000 100000"}, 64),
        # A place with a blank in it.
        ("0::/", v2(place=r"/my\040groups"), {"my groups/cpu.max": "500000 100000"}, 5),
        # Version 1, in the host's namespace as Docker leaves it, and below one's own root.
        ("5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f", V1.format(mounted="/docker/1f"), v1("", 200_000), 2),
        ("4:cpu,cpuacct:/a/b", f"{V1_MEMORY}\n{V1.format(mounted='/')}", {**v1("a", 50_000), **v1("a/b", -1)}, 0.5),
        ("4:cpu,cpuacct:/", V1.format(mounted="/"), v1("", -1), 64),
        # Both, as systemd's hybrid has them: the CPUs are version 1's, and version 2 is there, without a file for them.
        (
            "4:cpu,cpuacct:/a\n0::/a",
            f"{v2(place='/sys/fs/cgroup/unified')}\n{V1.format(mounted='/')}",
            {**v1("a", 700_000), "sys/fs/cgroup/unified/a/cgroup.procs": "1"},
            7,
        ),
        # What cannot be understood is no quota.
        ("0::/", v2(), {"sys/fs/cgroup/cpu.max": ""}, 64),
    ],
)
def test_the_tightest_quota_counts(
    cgroup: str, mounts: str, quotas: dict[str, str], cpus: float, tmp_path: Path
) -> None:
    assert available_cpus(tree(tmp_path, cgroup, mounts, quotas)) == cpus


def test_without_control_groups_the_mask_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 64


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cpus", "asked", "said", "threads"),
    [
        (64.0, None, None, 3),
        (2.0, None, None, 2),
        (1.9, None, None, 1),
        (0.2, None, None, 1),
        (1.0, 2, None, 2),
        (1.0, None, "3", 3),
        (1.0, 2, "3", 2),
    ],
)
@pytest.mark.usefixtures("three_threads")
def test_a_quota_bounds_the_threads_unless_somebody_says_how_many(
    cpus: float, asked: int | None, said: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_diffusion.networks.cpu.threads.available_cpus", lambda: cpus)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert set_threads(asked) == torch.get_num_threads() == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there are no affinity masks here")
def test_the_affinity_mask_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cpus(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)
