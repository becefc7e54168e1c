"""A server and a request, watched."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.clients.scripted_server import EVENTS, Reply, answer, scripted, sse
from tests.clients.terminals import Terminal
from tests.live_server import LiveServer
from token_diffusion_client import Client, StartEvent
from token_diffusion_client.__main__ import main
from token_diffusion_client.commands.watch import looks

pytest_plugins = ["tests.server_fixtures"]

Capture = pytest.CaptureFixture[str]

LOAD = {"rows": 3, "running": 2, "waiting": 1, "outstanding_work": 900, "work_per_s": 300.4, "ticks": 10}
INFO: dict[str, Any] = {
    "version": "0.1.0",
    "device": "cpu",
    "dtype": "float32",
    "models": [{"name": "demo\x1b[2J"}],
    "load": LOAD,
}


def test_each_look_is_a_line(capsys: Capture) -> None:
    with scripted(info=answer(INFO)) as server:
        assert main(["watch", "--url", server.url, "--interval_s", "0", "--count", "2"]) == 0
        assert [request.path for request in server.requests] == ["/info"] * 2
    head, *lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert head[:4] == ["rows", "running", "waiting", "outstanding work"]
    assert lines == [["3", "2", "1", "900", "3.0", "300", "0.0"]] * 2


def test_rates_are_what_changed_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0])
    monkeypatch.setattr("token_diffusion_client.commands.watch.time.monotonic", lambda: next(clock))
    told = iter([INFO, INFO | {"load": LOAD | {"ticks": 60}}])
    figures = [figures for _, figures in looks(lambda: next(told), 0, 2)]
    assert [found["forward passes per s"] for found in figures] == [0.0, 25.0]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "/info.load must be an object, got None"),
        ({"load": {"ticks": "many"}}, "/info.load.ticks must be a number, got 'many'"),
        ({"load": {"work_per_s": 10**400}}, "/info.load.work_per_s must be a number of 64 bits, got 1000"),
    ],
)
def test_what_is_no_load_is_one_line(info: object, message: str, capsys: Capture) -> None:
    with scripted(info=answer(info)) as server:
        assert main(["watch", "--url", server.url, "--count", "1"], prog="td") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"td: error: {message}") and error.count("\n") == 1


def test_a_live_server_as_json(live: LiveServer, capsys: Capture) -> None:
    assert main(["watch", "--url", live.url, "--json", "--count", "1"]) == 0
    (found,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (found["running"], found["waiting"], found["rows"]) == (0, 0, 0)


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    with scripted(info=answer(INFO)) as server:
        assert main(["watch", "--url", server.url, "--interval_s", "0", "--count", "2"]) == 0
    assert "seconds of work" in out.getvalue() and "demo␛[2J" in out.getvalue() and "demo\x1b" not in out.getvalue()


def test_a_terminal_that_cannot_move_back_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    with scripted(info=answer(INFO)) as server:
        assert main(["watch", "--url", server.url, "--interval_s", "0", "--count", "2"]) == 0
    assert len(out.getvalue().splitlines()) == 3


def test_a_request_by_its_id(live: LiveServer, capsys: Capture) -> None:
    with Client(live.url) as client:
        events = client.stream_sample("w1", seq_len=8, num_inference_steps=4, seed=1, on_disconnect="keep")
        start = next(events)
        assert isinstance(start, StartEvent)
        *_, done = events
        assert main(["watch", start.id, "--url", live.url]) == 0
        assert capsys.readouterr().out == "".join(f"{sample.text}\n" for sample in done.samples)  # type: ignore[union-attr]
    assert main(["watch", "smp-nobody", "--url", live.url]) == 1
    assert "request" in capsys.readouterr().err


def test_what_came_after_an_event() -> None:
    with scripted() as server:
        server.replies["/requests/smp-1/events"] = Reply([sse(EVENTS[-1:])])
        assert main(["watch", "smp-1", "--url", server.url, "--last_event_id", "4", "--quiet"]) == 0
        assert server.requests[0].last_event_id == "4"
