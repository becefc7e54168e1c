"""File descriptors: how many connections a process has them for, and what is said when they run out all the same."""

from __future__ import annotations

import logging
import math
import time

OTHER_DESCRIPTORS = 64
"""Files that a server has open besides its connections: about 30, and more while it loads."""

MOST_DESCRIPTORS = 65536
"""That are made use of where the system allows any number."""


def accepted(descriptors: int) -> tuple[int, int]:
    """Connections to accept in one go, and to have, of a process that may open so many files.

    asyncio accepts, in a few turns of its loop, a few times as many as one go before the first of them can be closed.
    """
    if not 0 <= descriptors <= MOST_DESCRIPTORS:
        descriptors = MOST_DESCRIPTORS
    spare = max(descriptors - OTHER_DESCRIPTORS, 32)
    at_once = min(spare // 16, 2048)
    return at_once, spare - 4 * at_once


class Seldom(logging.Filter):
    """Lets asyncio's complaint about descriptors that are used up, a thousand a second, pass once in `every_s` seconds."""

    def __init__(self, every_s: float) -> None:
        super().__init__()
        self._every_s, self._last = every_s, -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if "socket.accept() out of system resource" not in record.getMessage():
            return True
        last, now = self._last, time.monotonic()
        if now - last < self._every_s:
            return False
        self._last = now
        return True
