"""What was freed between things that stay goes back to the system."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from server import memory
from server.memory import Trimmer, find_trim


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_holes_among_things_that_stay_are_given_back() -> None:
    blocks = [bytes(20_000) for _ in range(8000)]  # 160 MB, each block larger than Python's own pools
    kept = blocks[::50]
    del blocks
    before = resident_mb()
    find_trim()()
    assert before - resident_mb() > 100
    assert len(kept) == 160


def test_it_trims_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now, trims = 1000.0, 0

    def trim() -> None:
        nonlocal trims
        trims += 1

    monkeypatch.setattr(memory, "find_trim", lambda: trim)
    monkeypatch.setattr(memory.time, "monotonic", lambda: now)
    trimmer = Trimmer()
    for _ in range(300):
        now += 1.0
        trimmer()
    assert trims == 5


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    find_trim()()
