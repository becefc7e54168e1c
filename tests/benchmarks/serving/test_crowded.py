"""The arithmetic of fair shares, neighbours that are there and then gone, and a round against a live server."""

from __future__ import annotations

import sys

import pytest

from benchmarks.report import Table
from benchmarks.serving import crowded
from benchmarks.serving.crowded import BEFORE, OURS, Times, _told, fair_share, measure
from tests.live_server import LiveServer

pytest_plugins = ["tests.server_fixtures"]


def test_fair_shares() -> None:
    assert fair_share(2, 4, 2.0) == 3.0
    assert fair_share(1, 4, 2.0) == 2.5
    assert fair_share(2, 0, 16.0) == 1.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a neighbour has computed is read from /proc")
def test_a_round_beside_neighbours(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(crowded.BODY, "seq_len", 8)
    monkeypatch.setitem(crowded.BODY, "num_inference_steps", 4)
    times = measure({BEFORE: live.url, OURS: live.url}, ["counting"], 1, rounds=1)
    assert {way: list(found) for way, found in times.seconds.items()} == {
        BEFORE: ["", "counting"],
        OURS: ["", "counting"],
    }
    assert all(len(one) == 1 and one[0] > 0 for found in times.seconds.values() for one in found.values())


def test_a_neighbour_that_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(crowded.NEIGHBOURS, "counting", "pass")
    with pytest.raises(RuntimeError, match="has ended"), crowded.neighbours("counting", 1):
        pass


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowded, "available_cpus", lambda: 2.0)
    monkeypatch.setattr(crowded.torch, "get_num_threads", lambda: 2)
    times = Times({BEFORE: {"": [1.0], "counting": [9.0]}, OURS: {"": [1.1], "counting": [3.0]}})
    (table,) = (part for part in _told(times, ["counting"], 4).parts if isinstance(part, Table))
    assert table.rows == [(BEFORE, 1.0, 1.0, 9.0, 3.0), (OURS, 1.1, 1.1, 3.0, 1.0)]
