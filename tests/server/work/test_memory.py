"""The server gives memory back now and then."""

from __future__ import annotations

import pytest

from server.work import memory
from server.work.memory import Trimmer


def test_it_gives_back_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now, times = 1000.0, 0

    def give_back() -> bool:
        nonlocal times
        times += 1
        return True

    monkeypatch.setattr(memory, "give_back", give_back)
    monkeypatch.setattr(memory.time, "monotonic", lambda: now)
    trimmer = Trimmer()
    for _ in range(300):
        now += 1.0
        trimmer()
    assert times == 5
