"""Whether the threads of a forward pass spin where they wait for each other, or sleep: as the neighbours leave it to them.

Threads of GNU's OpenMP, which torch uses on Linux, wait at the end of each loop, hundreds of times in a forward pass. They spin,
for milliseconds if need be: best by far where each has a core. Where other processes want the cores, they spin for a thread that
does not run because they do, and a request takes many times its fair share of the time; sleeping costs half as much again of a
small network's time where it is quiet, and little beside that where it is not. How long they spin is fixed when the library is
loaded, but for one rule, which its manual has (GOMP_SPINCOUNT): while a process has more of its threads than CPUs, they hardly
spin. So where it is crowded, a thread is there that keeps enough of them, asleep. No result depends on any of this.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import torch

from token_diffusion.networks.cpu.threads import affinity

CROWDED, LOOK_S = 0.2, 0.1
"""Share of the time in which the engine could have computed that it waited for a CPU, over so many seconds of that time: above
it, threads sleep. The server's own event loop takes less, one neighbour that is always busy takes a third on two cores."""
CALM, SLEEP_S = 0.1, 1.0
"""Below it, they spin again. They sleep for longer than they spin before they are judged, as who sleeps may be let through first:
where they changed to and fro, most of the time would still be spent well."""
MOST_SPARE = 128
"""CPUs without a thread of ours, each of which takes one that sleeps: many more could meet a limit on threads, which is fatal."""

SAID = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""By either of these the environment says how threads shall wait."""


class Spinning:
    """Called by the engine's thread after each tick; does nothing where its threads do not spin, or cannot be told not to."""

    def __init__(self) -> None:
        said = any(os.environ.get(name) for name in SAID)
        spare = affinity() - torch.get_num_threads()
        self._able = not said and torch.get_num_threads() > 1 and 0 <= spare <= MOST_SPARE
        self._able = self._able and _times() is not None and _openmp() is not None
        self._sleepers: _Sleepers | None = None
        self._before: tuple[int, int] | None = None

    @property
    def allowed(self) -> bool:
        """Whether the threads spin now, as far as it is for us to say."""
        return self._sleepers is None

    def __call__(self) -> None:
        if not self._able or (times := _times()) is None:
            return
        ran, waited = (after - before for after, before in zip(times, self._before or times, strict=True))
        if self._before is None or ran + waited >= 1e9 * (LOOK_S if self.allowed else SLEEP_S):
            self._before = times
            self._judge(waited / max(1, ran + waited))

    def _judge(self, share: float) -> None:
        if self.allowed and share > CROWDED:
            self._sleepers = _Sleepers()
        elif not self.allowed and share < CALM:
            self.stop()

    def stop(self) -> None:
        """Spin again."""
        if self._sleepers is not None:
            self._sleepers.stop()
            self._sleepers = None


class _Sleepers:
    """Threads of OpenMP that do nothing, and with which the process has more than there are CPUs."""

    def __init__(self) -> None:
        self._made, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="sleepers", daemon=True)
        self._thread.start()
        self._made.wait()

    def _keep(self) -> None:
        library = _openmp()
        assert library is not None
        # One loop of enough threads, which yield and have done. They then sleep as long as the thread lives that began it.
        library.GOMP_parallel(ctypes.CDLL(None).sched_yield, None, affinity() - torch.get_num_threads() + 2, 0)
        self._made.set()
        self._end.wait()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()


def _times() -> tuple[int, int] | None:
    """Nanoseconds that this thread has run, and that it waited for a CPU; None where the system does not tell."""
    try:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return int(ran), int(waited)


def _openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP, as torch has loaded it; None if there is another, or none. Others have this function, too."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "GOMP_parallel") and not hasattr(library, "kmp_set_blocktime") else None
