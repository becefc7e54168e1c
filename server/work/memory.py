"""Memory that was freed goes back to the system now and then."""

from __future__ import annotations

import time

from token_diffusion.networks.cpu.memory import give_back

EVERY_S = 60.0


class Trimmer:
    """Called after every tick; gives back once in `EVERY_S` seconds."""

    def __init__(self) -> None:
        self._due = time.monotonic() + EVERY_S

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._due:
            give_back()
            self._due = now + EVERY_S
