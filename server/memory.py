"""Memory that was freed goes back to the system now and then."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

EVERY_S = 60.0


def find_trim() -> Callable[[], None]:
    """glibc's malloc_trim; where there is none, nothing is done.

    Tensors of ever new sizes leave holes among longer-lived small objects. glibc keeps those pages unless told otherwise,
    and a server under mixed load would grow for hours without anything in it being lost.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return lambda: None
    malloc_trim.argtypes, malloc_trim.restype = [ctypes.c_size_t], ctypes.c_int

    def trim() -> None:
        malloc_trim(0)

    return trim


class Trimmer:
    """Called after every tick; trims once in `EVERY_S` seconds, which takes milliseconds."""

    def __init__(self) -> None:
        self._trim = find_trim()
        self._due = time.monotonic() + EVERY_S

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._trim()
            self._due = now + EVERY_S
