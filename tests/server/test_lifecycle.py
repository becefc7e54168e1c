"""`python -m server` as a process: how it starts, and how it ends while streams are open."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from server.__main__ import main
from tests.live_server import done_of, faked, replay, serving, tokens_of, wait_until
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

ROOT = Path(__file__).parents[2]

ENDLESS = {"seq_len": 96, "num_samples": 4, "num_inference_steps": 10_000, "model": "uniform"}
"""Thousands of forward passes: seconds, whatever the machine."""


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port, and its URL; killed if a test leaves it running."""
    command = [sys.executable, "-m", "server", "--port", "0", "--num_threads", "1", *arguments]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    try:
        for line in child.stderr:
            if "running on http://" in line:
                yield child, line.split("running on ")[1].split()[0]
                break
        else:
            raise AssertionError("the server did not start")
    finally:
        child.kill()
        child.stderr.read()
        child.stderr.close()
        child.wait()


@pytest.fixture
def flags(tiny_folders: Mapping[str, Path]) -> list[str]:
    return ["--checkpoint_path", str(tiny_folders["absorbing"]), "--checkpoint", f"uniform={tiny_folders['uniform']}"]


def test_sigterm_lets_streams_finish_but_not_begin(flags: list[str]) -> None:
    body = {"seq_len": 96, "num_inference_steps": 400, "num_samples": 4, "model": "uniform"}
    with process(*flags) as (child, url), httpx2.Client(timeout=30) as client:
        assert [model["name"] for model in client.get(url + "/models").json()["models"]] == ["absorbing", "uniform"]
        with client.sse(url + "/sample", method="POST", json=body) as source:
            events = iter(source)
            seen = [next(events), next(events)]
            child.send_signal(signal.SIGTERM)
            wait_until(lambda: client.get(url + "/ready").status_code == 503)
            refused = client.post(url + "/sample", json=body)
            assert refused.status_code == 503 and "retry-after" in refused.headers
            assert client.get(url + "/health").status_code == 200
            seen += list(events)
        assert replay(seen) == tokens_of(done_of(seen))
        assert child.wait(timeout=10) == 0


def test_a_second_signal_ends_it_at_once(flags: list[str]) -> None:
    with (
        process(*flags) as (child, url),
        httpx2.Client(timeout=30) as client,
        client.sse(url + "/sample", method="POST", json=ENDLESS) as source,
    ):
        events = iter(source)
        assert next(events).event == "start"
        child.send_signal(signal.SIGINT)
        wait_until(lambda: httpx2.get(url + "/ready").status_code == 503)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=5) == 128 + signal.SIGTERM


@pytest.mark.parametrize("stream", [True, False])
def test_after_the_grace_what_runs_or_waits_ends_with_an_error(tiny: Mapping[str, Checkpoint], stream: bool) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.05)
    limits = {"shutdown_grace_s": 0.3}
    body = {"seq_len": 96, "num_inference_steps": 1000, "stream": stream}
    with serving({"absorbing": checkpoint}, **limits) as server, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(httpx2.post, server.url + "/sample", json=body, timeout=30) for _ in range(2)]
        wait_until(lambda: len(server.engine.jobs.all) == 2)
        server.process.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: server.get("/ready").status_code == 503)
        for answer in answers:
            text = answer.result().text
            error = {"message": "the server is stopping", "type": "shutdown", "param": None, "code": 503}
            assert json.loads(text.strip().split("data: ")[-1].split("\n")[0]) == {"error": error}
            assert answer.result().status_code == (200 if stream else 503)
        wait_until(lambda: not server.engine.alive)


def test_an_idle_server_stops_at_once(tiny: Mapping[str, Checkpoint]) -> None:
    with serving({"absorbing": faked(tiny["absorbing"])[0]}, shutdown_grace_s=60) as server:
        server.process.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: not server.engine.alive, timeout_s=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "x"], "python -m server: error: port: Input should be a valid integer, "),
        (["--bogus"], "python -m server: error: unrecognized arguments: --bogus"),
        (["--checkpoint_path", "/nonexistent"], "checkpoint_path must be an existing folder, got '/nonexistent'"),
        (["--device", "gpu", "--checkpoint_path", "FOLDER"], "device must be"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tiny_folders: Mapping[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = str(tiny_folders["absorbing"])
    assert main([folder if argument == "FOLDER" else argument for argument in arguments]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
