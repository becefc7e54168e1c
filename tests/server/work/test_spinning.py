"""When the engine lets its threads spin; and, in a process of its own, that they then do, and else do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.work import spinning
from server.work.spinning import CALM, CROWDED, LOOK_S, SLEEP_S, Spinning, _openmp, _times

ROOT = Path(__file__).parents[3]


class Machine:
    """What the scheduler says of the engine's thread; `crowd` is the share of its time that it waits."""

    def __init__(self) -> None:
        self.ran, self.waited, self.crowd = 0, 0, 0.0
        self.sleepers = 0

    def work(self, spin: Spinning, seconds: float) -> None:
        """So much work in short ticks."""
        for _ in range(round(seconds / 0.01)):
            self.waited += int(1e7 * self.crowd)
            self.ran += int(1e7 * (1 - self.crowd))
            spin()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()

    class Sleepers:
        def __init__(self) -> None:
            found.sleepers += 1

        def stop(self) -> None:
            found.sleepers -= 1

    for name in spinning.SAID:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(spinning, "_Sleepers", Sleepers)
    monkeypatch.setattr(spinning, "_times", lambda: (found.ran, found.waited))
    monkeypatch.setattr(spinning, "_openmp", lambda: object())
    monkeypatch.setattr(spinning, "affinity", lambda: 4)
    monkeypatch.setattr(spinning.torch, "get_num_threads", lambda: 2)
    return found


def test_threads_spin_where_it_is_quiet_and_sleep_where_it_is_crowded(machine: Machine) -> None:
    spin = Spinning()
    machine.crowd = CROWDED - 0.02
    machine.work(spin, 5 * LOOK_S)
    assert spin.allowed
    machine.crowd = CROWDED + 0.3
    machine.work(spin, 2 * LOOK_S)
    assert not spin.allowed
    machine.crowd = CALM + 0.02  # between the two all stays as it is
    machine.work(spin, 5 * SLEEP_S)
    assert not spin.allowed
    assert machine.sleepers == 1
    machine.crowd = 0.0
    machine.work(spin, 2 * SLEEP_S + 0.02)
    assert spin.allowed
    assert machine.sleepers == 0


def test_the_end_takes_the_sleepers_along(machine: Machine) -> None:
    spin = Spinning()
    machine.crowd = 1.0
    machine.work(spin, 2 * LOOK_S)
    assert machine.sleepers == 1
    spin.stop()
    spin.stop()
    assert machine.sleepers == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("affinity", lambda: 1),
        ("affinity", lambda: 1000),
        ("_times", lambda: None),
        ("_openmp", lambda: None),
        ("", ""),
    ],
)
def test_where_there_is_nothing_to_say_it_stays_silent(
    name: str, value: object, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name:
        monkeypatch.setattr(spinning, name, value)
    else:
        monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    spin, machine.crowd = Spinning(), 1.0
    machine.work(spin, 5 * LOOK_S)
    assert machine.sleepers == 0


LOOPS = """
import os, time, torch
from server.work.spinning import _Sleepers
torch.set_num_threads(2)
work = torch.ones(200_000)
torch.relu(work)

def cpu_s():
    start = time.process_time()
    for _ in range(40):
        torch.relu(work)
        time.sleep(0.003)
    return time.process_time() - start

def threads():
    return len(os.listdir("/proc/self/task"))

before, found = threads(), [cpu_s()]
sleepers = _Sleepers()
found.append(cpu_s())
most = threads()
sleepers.stop()
found.append(cpu_s())
print(*found, most > before + 1, threads() == before)
"""


@pytest.mark.skipif(_times() is None or _openmp() is None, reason="torch's OpenMP is not GNU's, or this is not Linux")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU: nobody spins")
def test_beside_sleepers_nobody_spins() -> None:
    plain = {name: value for name, value in os.environ.items() if name not in spinning.SAID}
    command = [sys.executable, "-c", LOOPS]
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    spun, slept, again, *threads = done.stdout.split()
    assert float(slept) < 0.5 * min(float(spun), float(again)), done.stdout
    assert threads == ["True", "True"], done.stdout
