"""The hand-made client of the abuse benchmark, against a live server: it must tell an answer from none."""

from __future__ import annotations

import asyncio
import socket

import pytest

from benchmarks.serving.abuse import SCENARIOS, Raw, Scenario, _visits
from tests.live_server import LiveServer

pytest_plugins = ["tests.server_fixtures"]


def test_the_stranger_gets_answers(live: LiveServer) -> None:
    raw = Raw(live.url)
    visits = {scenario.visit for scenario in SCENARIOS}
    assert [asyncio.run(visit(raw)) for visit in visits] == [200] * len(visits)
    assert asyncio.run(raw.ask("POST", "/sample", b"{")) == 400


def test_no_answer_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.serving.abuse.GIVEN_UP_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        scenario = Scenario("", lambda raw: raw.ask("GET", "/health"), lambda raw, index: raw.ask("GET", "/"), 1)
        raw = Raw(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert asyncio.run(_visits(scenario, raw, 0.0)) == ([0.1], 1)
