"""SIGTERM, a step that hangs and an engine that dies, in every state that a server can be in: a process, real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
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


def test_a_signal_while_it_is_imported_ends_it_without_a_traceback() -> None:
    """By the time at which it has read its own first lines, and long before it has read torch."""
    program = "import sys, server.__main__ as it; sys.meta_path.insert(0, sys.modules['tests.importing']); it.main([])"
    program = f"import tests.importing; {program}"
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "importing\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=20) == ("", "")
    assert child.returncode == 130
