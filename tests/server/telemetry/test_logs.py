from __future__ import annotations

import contextvars
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server.telemetry import logs

pytest_plugins = ["tests.server_fixtures"]

ROOT = Path(__file__).parents[3]


def record(message: str, *args: object, **more: Any) -> logging.LogRecord:
    made = logging.getLogger("server.x").makeRecord("server.x", logging.INFO, __file__, 1, message, args, None)
    vars(made).update(more)
    return made


def failure() -> Any:
    try:
        raise ValueError("bad \x1b[2J\nvalue")
    except ValueError:
        return sys.exc_info()


def test_text_says_fields_as_names_and_values() -> None:
    line = logs.TextFormatter().format(
        record("hello %s", "you", fields={"a": 1, "b": "x y", "c": 'say "hi"', "d": ""})
    )
    assert line.endswith(' INFO server.x: hello you a=1 b="x y" c="say \\"hi\\"" d=""')


@pytest.mark.parametrize("evil", ["a\nINFO b", "a\r\nb", "\x1b[31mred", "\x9b31m", "x\u2028y", "\x00", "\x7f"])
def test_text_is_one_line_without_control_characters(evil: str) -> None:
    line = logs.TextFormatter().format(record("%s", evil, fields={"path": evil}))
    assert line.isprintable()


def test_text_keeps_the_lines_of_a_traceback_but_none_of_its_control_characters() -> None:
    text = logs.TextFormatter().format(record("it failed", exc_info=failure()))
    assert text.splitlines()[0].endswith("it failed") and "Traceback (most recent call last):" in text
    assert "\x1b" not in text and "\\x1b[2J" in text


def test_json_is_one_object_a_line_with_its_traceback() -> None:
    line = logs.JSONFormatter().format(record("it %s", "failed", exc_info=failure(), fields={"model": "x\ny"}))
    assert line.count("\n") == 0
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"], entry["model"]) == (
        "info",
        "server.x",
        "it failed",
        "x\ny",
    )
    assert entry["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert entry["time"].endswith("+00:00")


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JSONFormatter()])
def test_every_message_of_a_request_names_it(formatter: logging.Formatter) -> None:
    def within() -> str:
        logs.context.set({"request_id": "mine", "trace_id": "ab" * 16})
        return formatter.format(record("hello"))

    line = contextvars.copy_context().run(within)
    assert "mine" in line and "ab" * 16 in line
    assert "mine" not in formatter.format(record("hello"))


def test_a_process_that_logs_json_logs_nothing_else(tiny_folders: Mapping[str, Path]) -> None:
    folder = str(tiny_folders["absorbing"])
    flags = ["--port", "0", "--num_threads", "1", "--checkpoint_path", folder, "--log_format", "json"]
    command = [sys.executable, "-m", "server", *flags]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr is not None
        lines: list[str] = []
        for line in child.stderr:
            lines.append(line)
            if "running on http://" in line:
                break
        url = json.loads(lines[-1])["message"].split("running on ")[1].split()[0]
        body = {"seq_len": 4, "stream": False, "prompt": "w1 w2"}
        answer = httpx2.post(url + "/sample", json=body, headers={"X-Request-Id": "mine"}, timeout=30)
        child.send_signal(signal.SIGTERM)
        lines += child.stderr
    finally:
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()
    entries = [json.loads(line) for line in lines]
    told = [entry for entry in entries if entry["logger"] == "server.access"]
    assert [(entry["request_id"], entry["job"], entry["status"]) for entry in told] == [
        ("mine", answer.json()["id"], 200)
    ]
    assert {"uvicorn.error", "server.lifecycle"} <= {entry["logger"] for entry in entries}
    assert "w1 w2" not in "".join(lines)
