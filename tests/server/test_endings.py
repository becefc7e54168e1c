"""SIGTERM, a step that hangs and an engine that dies, in every state that a server can be in: a process, real sockets."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.ailing_server import AilingServer, ailing
from tests.live_server import done_of, replay, tokens_of, wait_until

pytest_plugins = ["tests.server_fixtures"]

ROOT = Path(__file__).parents[2]

BODY = {"seq_len": 24, "num_inference_steps": 24}

GRACE_S = 0.5
GRACE = ("--shutdown_grace_s", str(GRACE_S))


@pytest.fixture(scope="module")
def folder(tiny_folders: Mapping[str, Path]) -> Path:
    return tiny_folders["absorbing"]


def last_event(text: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(text.strip().split("data: ")[-1].split("\n")[0])
    return event


def load(url: str) -> dict[str, int]:
    said: dict[str, int] = httpx2.get(url + "/info").json()["load"]
    return said


def ends_in_time(server: AilingServer, code: int) -> None:
    """Within the grace and 3 s; as much again for a machine that is busy."""
    began = time.monotonic()
    assert server.exit_code() == code, server.log
    assert time.monotonic() - began < 2 * (GRACE_S + 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_it_loads_it_answers_and_a_signal_ends_it_at_once(folder: Path, number: signal.Signals) -> None:
    with ailing(folder, "never loads") as server:
        url = server.url("listening at")
        assert httpx2.get(url + "/health").status_code == 200
        for answer in (httpx2.get(url + "/ready"), httpx2.post(url + "/sample", json=BODY), httpx2.get(url + "/info")):
            assert answer.status_code == 503 and answer.headers["retry-after"]
            assert answer.json()["error"]["message"] == "the checkpoints are still loading"
        assert "running on" not in server.log
        server.signal(number)
        assert server.exit_code() == 128 + number
        assert "Traceback" not in server.log


IMPORTING = """
import sys, time
class Importing:
    def find_spec(self, name, *rest):
        if name == "torch":
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Importing())
from server.__main__ import main
main([])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_modules_are_imported_ends_it_without_a_traceback(number: signal.Signals) -> None:
    command = [sys.executable, "-c", IMPORTING]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "importing\n"
        child.send_signal(number)
        assert child.communicate(timeout=20) == ("", "")
        assert child.returncode == 128 + number


def test_idle_with_open_connections_it_ends_at_once(folder: Path) -> None:
    with ailing(folder, "", "--shutdown_grace_s", "60") as server, httpx2.Client() as client:
        assert client.get(server.url() + "/ready").status_code == 200
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0


def test_an_application_that_does_not_close_cannot_keep_it(folder: Path) -> None:
    with ailing(folder, "never closes", *GRACE) as server:
        server.url()
        server.signal(signal.SIGTERM)
        ends_in_time(server, 0)


def test_while_streams_run_they_finish_and_none_begins(folder: Path) -> None:
    body = {"seq_len": 90, "num_inference_steps": 400}
    with ailing(folder, "crawls") as server, httpx2.Client(timeout=30) as client:
        url = server.url()
        with client.sse(url + "/sample", method="POST", json=body) as source:
            events = iter(source)
            seen = [next(events), next(events)]
            server.signal(signal.SIGTERM)
            wait_until(lambda: client.get(url + "/ready").status_code == 503)
            assert client.get(url + "/health").status_code == 200
            assert client.post(url + "/sample", json=body).status_code == 503
            seen += list(events)
        assert replay(seen) == tokens_of(done_of(seen))
        assert server.exit_code() == 0


def test_while_a_body_is_read_it_ends_without_the_rest(folder: Path) -> None:
    with ailing(folder, "", *GRACE) as server:
        address = ("127.0.0.1", int(server.url().rsplit(":", 1)[1]))
        with socket.create_connection(address) as client:
            client.sendall(
                b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
            )
            httpx2.get(server.url() + "/ready")  # by now the bytes before it have been read, too
            server.signal(signal.SIGTERM)
            ends_in_time(server, 0)


@pytest.mark.parametrize("signals", [1, 2])
def test_in_a_step_that_hangs_it_ends_after_the_grace_or_at_once(folder: Path, signals: int) -> None:
    """One request is in the step, another one waits, one is to be answered as JSON."""
    with ailing(folder, "hangs", "--shutdown_grace_s", "60" if signals == 2 else str(GRACE_S)) as server:
        url = server.url()
        with ThreadPoolExecutor(3) as pool:
            bodies = [BODY, BODY, BODY | {"stream": False}]
            answers = [pool.submit(httpx2.post, url + "/sample", json=body, timeout=30) for body in bodies]
            wait_until(lambda: load(url)["ticks"] == 1 and load(url)["rows"] == 3)
            server.signal(signal.SIGTERM)
            if signals == 2:
                wait_until(lambda: httpx2.get(url + "/ready").status_code == 503)
                server.signal(signal.SIGTERM)
                assert server.exit_code() == 143
                return
            ends_in_time(server, 0)
            for answer in answers:
                assert last_event(answer.result().text)["error"]["type"] == "shutdown"


def test_a_step_that_hangs_is_told_and_ends_the_process(folder: Path) -> None:
    with (
        ailing(folder, "hangs", "--stall_s", "0.5") as server,
        httpx2.Client(timeout=30) as client,
        client.sse(server.url() + "/sample", method="POST", json=BODY) as source,
    ):
        events = list(source)
        message = "the engine has not finished a step for 0."
        assert [event.event for event in events] == ["start", "error"]
        assert json.loads(events[-1].data)["error"]["message"].startswith(message)
        health = httpx2.get(server.url() + "/health")
        assert health.status_code == 503 and "has not finished a step" in health.json()["error"]["message"]
        assert httpx2.post(server.url() + "/sample", json=BODY).status_code == 503
        ends_in_time(server, 70)
        assert json.loads(events[0].data)["id"] in server.log


@pytest.mark.parametrize("signalled", [False, True])
def test_an_engine_that_dies_is_told_and_ends_the_process(folder: Path, signalled: bool) -> None:
    with ailing(folder, "exits", *GRACE) as server:
        answer = httpx2.post(server.url() + "/sample", json=BODY, timeout=30)
        assert last_event(answer.text)["error"]["type"] == "internal"
        assert httpx2.get(server.url() + "/health").status_code == 503
        if signalled:
            server.signal(signal.SIGTERM)
        ends_in_time(server, 71)
        assert "SystemExit: the network has left" in server.log


def test_weights_found_broken_after_the_port_is_open_end_it_with_code_2(folder: Path) -> None:
    with ailing(folder, "fails to load") as server:
        assert server.exit_code() == 2
        assert "listening at" in server.log and "SystemExit: the network has left" in server.log
