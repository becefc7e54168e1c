"""The curl examples send JSON that is JSON, to the endpoint that they name."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.scripted_server import DONE, Reply, Scripted, answer, envelope, scripted, sse

SCRIPT = Path(__file__).parents[2] / "clients" / "curl.sh"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


def curl(server: Scripted, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TD_URL": server.url, "TD_API_KEY": "", **environment}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=environment, timeout=10)


@pytest.mark.parametrize(
    ("example", "path", "fields"),
    [
        (None, "/sample", {"seq_len", "num_inference_steps", "seed", "include_text"}),
        (
            "block",
            "/sample/block",
            {"prompt", "seq_len", "block_size", "num_inference_steps", "top_p", "seed", "include_text"},
        ),
        ("hybrid", "/sample/hybrid", {"seq_len", "num_inference_steps", "seed", "include_text"}),
        ("infill", "/sample", {"template", "seed", "include_text"}),
        ("decoder", "/sample", {"seq_len", "sampler", "threshold", "logprobs", "seed", "include_text"}),
    ],
)
def test_streams(example: str | None, path: str, fields: set[str]) -> None:
    with scripted(**{path[1:].replace("/", "_"): Reply([sse()])}) as server:
        finished = curl(server, *([example] if example else []))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == sse().decode() + "\n"
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", path)
    assert request.body.keys() == fields


def test_json_asks_for_no_stream() -> None:
    with scripted(sample=answer(DONE)) as server:
        assert '"finish_reason": "stop"' in curl(server, "json").stdout
    assert server.requests[0].body["stream"] is False


@pytest.mark.parametrize(("example", "fields"), [("score", {"texts", "num_times", "seed"}), ("tokenize", {"prompt"})])
def test_questions(example: str, fields: set[str]) -> None:
    with scripted(**{example: answer({"id": "smp-1"})}) as server:
        assert curl(server, example).stdout == '{"id": "smp-1"}\n'
    assert server.requests[0].body.keys() == fields


def test_the_key_goes_along_and_a_final_slash_does_not() -> None:
    ok = answer({"status": "ok"})
    with scripted(health=ok, ready=ok, models=ok) as server:
        assert curl(server, "health").returncode == 0
        assert curl(server, "models", TD_API_KEY="two words", TD_URL=server.url + "/").returncode == 0
    asked = [(request.method, request.path, request.authorization) for request in server.requests]
    assert asked == [("GET", "/health", None), ("GET", "/ready", None), ("GET", "/models", "Bearer two words")]


def test_a_refusal_is_shown_and_fails() -> None:
    with scripted(sample=answer(envelope(), 422)) as server:
        refused = curl(server, "sample")
    assert refused.returncode == 22
    assert "top_p must be in (0, 1], got 1.5" in refused.stdout


def test_an_unknown_example_is_one_line() -> None:
    with scripted() as server:
        wrong = curl(server, "poem")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("usage: ")
    assert wrong.stderr.endswith("got 'poem'\n")
