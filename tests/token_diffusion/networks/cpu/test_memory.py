"""What was freed is kept for the next forward pass, and goes back to the system when told to."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.token_diffusion.networks.cpu.test_threads import V1_MEMORY, tree, v2
from token_diffusion.networks.cpu import memory
from token_diffusion.networks.cpu.memory import free, give_back, prepare
from token_diffusion.networks.cpu.packing import is_supported

ROOT = Path(__file__).parents[4]
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's")

PROGRAM = '''
import json
import os
import resource
import sys
from pathlib import Path
import torch
from token_diffusion.networks.cpu.memory import give_back, prepare
from token_diffusion.networks.cpu.packing import pack

def faults(first: int) -> int:
    """Of twenty tensors of about 20 MB, each a little larger than those before it, so that each is new to glibc."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for index in range(20):
        torch.ones(5 * 2**20 + (first + index) * 2**12)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident() -> int:
    give_back()
    return int(Path("/proc/self/statm").read_text().split()[1])

def grown() -> int:
    """Pages that products of 450 shapes leave behind."""
    layer = torch.nn.Linear(64, 64)
    pack(layer)
    with torch.inference_mode():
        layer(torch.ones(1, 64))
        before = resident()
        for rows in range(2, 450):
            layer(torch.ones(rows, 64))
        return resident() - before

for prepared in (False, True):
    if os.fork() == 0:
        prepared and prepare()
        faults(0)
        print(json.dumps([faults(20), grown() if torch.backends.mkldnn.is_available() else 0]), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit("a process of its own failed")
'''


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.fixture(scope="module")
def figures() -> dict[bool, list[int]]:
    """Of processes of their own, unprepared and prepared: page faults, pages grown."""
    environment = {name: value for name, value in os.environ.items() if name not in memory.CACHES | memory.KEPT}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(zip((False, True), map(json.loads, done.stdout.splitlines()), strict=True))


@glibc
def test_kept_memory_is_not_asked_for_again(figures: dict[bool, list[int]]) -> None:
    assert 4 * figures[True][0] < figures[False][0]


@glibc
@pytest.mark.skipif(not is_supported(torch.float32), reason="oneDNN is not there")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor's code is of another size")
def test_code_is_kept_for_the_last_shapes_alone(figures: dict[bool, list[int]]) -> None:
    assert 2 * figures[True][1] < figures[False][1]


def test_what_the_environment_says_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = memory.CACHES
    monkeypatch.setenv(one, "7")
    monkeypatch.setenv(other, "7")  # to be restored
    monkeypatch.delenv(other)
    calls: list[tuple[int, int]] = []

    def mallopt(number: int, value: int) -> int:
        calls.append((number, value))
        return 1

    monkeypatch.setattr(memory, "_glibc", lambda name, *arguments: mallopt)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "100000")
    assert prepare()
    assert (os.environ[one], os.environ[other]) == ("7", memory.CACHES[other])
    assert calls == [memory.KEPT["MALLOC_ARENA_MAX"], memory.KEPT["MALLOC_MMAP_THRESHOLD_"]]


@glibc
def test_holes_among_things_that_stay_are_given_back() -> None:
    blocks = [bytes(20_000) for _ in range(8000)]  # 160 MB, each block larger than Python's own pools
    kept = blocks[::50]
    del blocks
    before = resident_mb()
    assert give_back()
    assert before - resident_mb() > 100
    assert len(kept) == 160


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    for name in memory.CACHES:
        monkeypatch.setenv(name, "7")
    assert not give_back() and not prepare()


MEMINFO = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:   12000 kB\nSwapFree:        9000 kB"


def limited(folder: str, bound: str, used: int, stat: str) -> dict[str, str]:
    path = f"sys/fs/cgroup/{folder}"
    return {f"{path}/memory.max": bound, f"{path}/memory.current": str(used), f"{path}/memory.stat": stat}


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "left"),
    [
        ("0::/", V1_MEMORY, {}, 12_000 * 1024),
        ("0::/", v2(), limited("", "max", 5, "active_file 1"), 12_000 * 1024),
        # What mirrors files counts as free: mapped weights are in there.
        ("0::/", v2(), limited("", "1000", 900, "anon 100\ninactive_file 300\nactive_file 450"), 850),
        ("0::/a/b", v2(), limited("a", "1000", 900, "anon 900") | limited("a/b", "2000", 900, "anon 900"), 100),
        ("0::/", v2(), limited("", "1000", 1200, "anon 1200"), 0),
        ("0::/", v2(), limited("", "more", 1, "anon 1"), 12_000 * 1024),
        (
            "5:memory:/a",
            V1_MEMORY,
            {
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "7000",
                "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "6000",
                "sys/fs/cgroup/memory/a/memory.stat": "active_file 0\ntotal_inactive_file 500\ntotal_active_file 0",
            },
            1500,
        ),
    ],
)
def test_what_is_free_follows_from_the_machine_and_the_tightest_limit(
    cgroup: str, mounts: str, files: dict[str, str], left: int, tmp_path: Path
) -> None:
    assert free(tree(tmp_path, cgroup, mounts, {"proc/meminfo": MEMINFO, **files})) == left


def test_where_nothing_is_known_nothing_is_said(tmp_path: Path) -> None:
    assert free(tmp_path) is None
    assert 0 < (free() or 1) < 2**50
