"""When the engine lets its threads spin; and, in a process of its own, that they then do, and else do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.work import spinning
from server.work.spinning import CROWDED, LOOK_S, SLEEP_S, Spinning, _openmp, _times

ROOT = Path(__file__).parents[3]


class Machine:
    """A clock, and what the scheduler says of the engine's thread; `crowd` is the share of its time that it waits."""

    def __init__(self) -> None:
        self.now, self.ran, self.waited, self.crowd = 100.0, 0, 0, 0.0
        self.sleepers = 0

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.waited += int(1e9 * seconds * self.crowd)
        self.ran += int(1e9 * seconds * (1 - self.crowd))

    def monotonic(self) -> float:
        return self.now


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
    monkeypatch.setattr(spinning, "time", found)
    monkeypatch.setattr(spinning, "affinity", lambda: 4)
    monkeypatch.setattr(spinning.torch, "get_num_threads", lambda: 2)
    return found


def test_threads_spin_where_it_is_quiet_and_sleep_where_it_is_crowded(machine: Machine) -> None:
    spin = Spinning()
    machine.crowd = CROWDED - 0.05
    for _ in range(50):
        spin()
        machine.work(LOOK_S / 3)
        assert spin.allowed
    machine.crowd = CROWDED + 0.1
    machine.work(LOOK_S)
    spin()
    machine.work(LOOK_S)
    spin()
    assert not spin.allowed
    assert machine.sleepers == 1
    machine.work(SLEEP_S / 2)
    spin()
    assert not spin.allowed
    machine.work(SLEEP_S / 2)
    spin()
    assert spin.allowed  # tries
    machine.work(LOOK_S)
    spin()
    assert not spin.allowed  # and sees that it is as crowded as before
    machine.crowd = 0.0
    for _ in range(3):
        machine.work(SLEEP_S)
        spin()
        assert spin.allowed
    assert machine.sleepers == 0


def test_the_end_takes_the_sleepers_along(machine: Machine) -> None:
    spin = Spinning()
    machine.crowd = 1.0
    for _ in range(2):
        spin()
        machine.work(LOOK_S)
    spin()
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
    for _ in range(5):
        spin()
        machine.work(LOOK_S)
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
