"""What was freed is kept for the next forward pass, and goes back to the system when told to."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from token_diffusion import memory
from token_diffusion.memory import give_back, keep_freed

ROOT = Path(__file__).parent.parent
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's")

TENSORS = '''
import resource
import torch
from token_diffusion.memory import keep_freed

KEEP and keep_freed()
def passes(first: int) -> int:
    """Page faults of twenty tensors of about 20 MB, each a little larger than those before it, so that each is new to glibc."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for index in range(20):
        torch.ones(5 * 2**20 + (first + index) * 2**12)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
passes(0)
print(passes(20))
'''


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@glibc
def test_kept_memory_is_not_asked_for_again() -> None:
    """In processes of their own, as it is a matter of the whole process."""
    faults = {}
    for keep in (False, True):
        program = TENSORS.replace("KEEP", str(keep))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
        faults[keep] = int(done.stdout)
    assert 4 * faults[True] < faults[False], faults


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
    assert not give_back() and not keep_freed()
