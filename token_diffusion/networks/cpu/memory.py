"""What the memory of a process that runs networks on the CPU is kept for: by glibc, and by oneDNN.

A forward pass frees megabytes that the next one wants again. Left alone, glibc hands them to the system and asks for them again,
and each page is found and cleared anew: up to a fifth of the time of a small network. Kept for good, what lies free between
longer-lived small objects grows for hours, though nothing is lost. So programs that run networks `prepare` as they start, and
those that run for weeks sometimes `give_back`.

And how much of it there is: `free` bytes, for whoever would take a part of them for the sake of time.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from .control_groups import folders

KEPT = {
    "MALLOC_ARENA_MAX": (-8, 1),  # threads share one heap: what one of them frees is there for the others
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 * 2**20),  # the most that glibc takes: smaller tensors come from the heap
    "MALLOC_TRIM_THRESHOLD_": (-1, 512 * 2**20),  # so much may lie free at the end of the heap
}
"""The variable by which a user may set it, glibc's number for it (malloc.h), and ours."""

CACHES = dict.fromkeys(("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"), "128")
"""Two caches, torch's and oneDNN's own, hold compiled code, 0.4 MB, for each shape of a product; of 1024 shapes if they may. A
forward pass has five or six, a batch that changes has ever new ones, and making the code takes less than is saved by it."""

LIMITS = (("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))
"""Files of a control group, of version 2 and of 1: its limit, what it uses, and what counts of all its processes begin with."""


def prepare() -> bool:
    """Keep up to half a gigabyte of what is freed for whoever wants it next, and oneDNN's code for the last shapes alone.

    To be called before the first forward pass. What the environment says of any of this is left. Returns whether all that
    it does not say is done: freed memory is kept only where glibc is.
    """
    for name, count in CACHES.items():
        os.environ.setdefault(name, count)
    mallopt = _glibc("mallopt", ctypes.c_int, ctypes.c_int)
    ours = [setting for name, setting in KEPT.items() if name not in os.environ]
    return mallopt is not None and sum(mallopt(number, value) for number, value in ours) == len(ours)


def give_back() -> bool:
    """Give the system whatever is free, which takes milliseconds. Returns whether anything was."""
    malloc_trim = _glibc("malloc_trim", ctypes.c_size_t)
    return malloc_trim is not None and malloc_trim(0) == 1


def free(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: what the machine has available, or less by the tightest limit above it.

    What only mirrors files, such as weights that are mapped into memory, is available: it can be read again. None where
    nothing is known.

    root: of the file system in which that is looked up.
    """
    found = [*_available(root), *_left_of_limits(root)]
    return max(0, min(found)) if found else None


def _available(root: Path) -> Iterator[int]:
    """What the kernel thinks that programs could take before it swaps."""
    try:
        described = (root / "proc/meminfo").read_text()
    except OSError:  # no Linux
        return
    for kilobytes in re.findall(r"^MemAvailable: *(\d+) kB$", described, re.MULTILINE):
        yield int(kilobytes) * 1024


def _left_of_limits(root: Path) -> Iterator[int]:
    """Of the memory of each control group with a limit."""
    for folder in folders("memory", root):
        for limit, usage, prefix in LIMITS:
            try:
                bound, used = (int((folder / name).read_text()) for name in (limit, usage))
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # not of this version, or "max"
                continue
            files = sum(int(counts.get(f"{prefix}{state}_file", 0)) for state in ("active", "inactive"))
            yield bound - max(0, used - files)


def _glibc(name: str, *arguments: type) -> Callable[..., int] | None:
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return None
    function.argtypes, function.restype = arguments, ctypes.c_int
    return function
