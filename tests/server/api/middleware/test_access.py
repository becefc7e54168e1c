"""One line a request, written when it is over, with what became of it."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from server.api.middleware.access import AccessMiddleware
from server.api.middleware.request_id import RequestIdMiddleware
from server.api.routes import sampling
from server.errors import cancelled, timeout
from server.owners.owner import Owner
from server.telemetry import logs
from server.telemetry.metrics import Metrics
from server.work.jobs import Job
from server.work.stream import Stream
from tests.live_server import LiveServer, done_of, faked, serving, wait_until
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.engine.batch import Result, Update
from token_diffusion.samplers.parameters import SamplingParameters

pytest_plugins = ["tests.server_fixtures"]

BODY = {"seq_len": 4, "num_inference_steps": 2}


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.name == "server.access"]


@pytest.fixture
def access(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="server")
    return caplog


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_is_done(live: LiveServer, access: pytest.LogCaptureFixture, stream: bool) -> None:
    answer = live.post("/sample", BODY | {"stream": stream, "model": "uniform"})
    assert answer.status_code == 200
    job = json.loads(answer.text.rsplit("data: ", 1)[1].split("\n")[0]) if stream else answer.json()
    (line,) = told(access)
    assert line.pop("ms") >= 0
    assert line == {
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/sample",
        "status": 200,
        "outcome": "done",
        "model": "uniform",
        "sampler": "ancestral",
        "work": 8,
        "job": job["id"],
    }


def test_a_stream_is_told_when_it_ends(tiny: Mapping[str, Checkpoint], access: pytest.LogCaptureFixture) -> None:
    slow, _ = faked(tiny["absorbing"], delay_s=0.01)
    with serving({"absorbing": slow}) as server:
        with server.reading("/sample", BODY | {"seq_len": 40, "num_inference_steps": 1000}) as events:
            seen = [next(events), next(events), next(events)]
            assert told(access) == []
            seen += list(events)
        assert [line["outcome"] for line in told(access)] == ["done"]
        assert told(access)[0]["ms"] >= done_of(seen)["timings"]["total_ms"] * 0.9


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves(tiny: Mapping[str, Checkpoint], access: pytest.LogCaptureFixture, stream: bool) -> None:
    slow, denoiser = faked(tiny["absorbing"], delay_s=0.01)
    body = json.dumps(BODY | {"seq_len": 96, "num_inference_steps": 10_000, "stream": stream}).encode()
    head = f"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with serving({"absorbing": slow}) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as client:
            client.sendall(head.encode() + body)
            wait_until(lambda: denoiser.calls > 2)
        wait_until(lambda: len(told(access)) == 1)
        assert (told(access)[0]["outcome"], told(access)[0]["status"]) == ("left", 200 if stream else 499)


@pytest.mark.parametrize("sent", [b'{"seq_len', b""])
def test_a_client_that_leaves_within_its_body(live: LiveServer, access: pytest.LogCaptureFixture, sent: bytes) -> None:
    head = b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(live.url.rsplit(":", 1)[1]))) as client:
        client.sendall(head + sent)
    wait_until(lambda: len(told(access)) == 1)
    assert told(access)[0]["outcome"] == "left"


@pytest.mark.parametrize(("stream", "status"), [(True, 200), (False, 504)])
def test_an_error_at_the_end(
    tiny: Mapping[str, Checkpoint], access: pytest.LogCaptureFixture, stream: bool, status: int
) -> None:
    slow, _ = faked(tiny["absorbing"], delay_s=0.01)
    with serving({"absorbing": slow}) as server:
        server.post("/sample", {"seq_len": 96, "num_inference_steps": 10_000, "stream": stream, "timeout_s": 0.1})
        (line,) = told(access)
        assert (line["outcome"], line["status"], line["model"]) == ("timeout", status, "absorbing")


def test_what_was_refused(tiny: Mapping[str, Checkpoint], access: pytest.LogCaptureFixture) -> None:
    key = {"Authorization": "Bearer secret"}
    with serving({"absorbing": faked(tiny["absorbing"])[0]}, api_key="secret", max_body_bytes=300) as server:
        server.post("/sample", BODY)
        server.post("/sample", {"seq_len": 0}, headers=key)
        server.post("/sample", {"prompt": "x" * 400}, headers=key)
        server.get("/nothing", headers=key)
        server.get("/sample", headers=key)
        server.engine.drain()
        server.post("/sample", BODY, headers=key)
    assert [(line["status"], line["outcome"]) for line in told(access)] == [
        (401, "unauthorized"),
        (422, "invalid_request"),
        (413, "invalid_request"),
        (404, "not_found"),
        (405, "invalid_request"),
        (503, "unavailable"),
    ]


def test_what_nobody_foresaw(
    live: LiveServer, access: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(sampling, "admit", broken)
    assert live.post("/sample", BODY).status_code == 500
    assert [(line["status"], line["outcome"]) for line in told(access)] == [(500, "internal")]


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        (["done", "dismissed"], "done"),
        (["done", "cancelled", "timeout", "cancelled"], "timeout"),
        (["cancelled", "done"], "cancelled"),
        (["done", "running"], "internal"),
    ],
)
def test_a_request_of_several_jobs_is_one_line(
    access: pytest.LogCaptureFixture, ends: list[str], outcome: str
) -> None:
    jobs = [Job("m", [1, 2], SamplingParameters(2), Stream(), Owner("key:a", "a"), 2) for _ in ends]
    how: dict[str, Callable[[Stream], None]] = {
        "done": lambda stream: stream.publish(Update(0, 1, 0.0, 1, [], [], Result([[1, 2]], [[0, 0]], 1, 0, 2, 0))),
        "dismissed": Stream.dismiss,
        "cancelled": lambda stream: stream.fail(cancelled()),
        "timeout": lambda stream: stream.fail(timeout(1.0)),
        "running": lambda stream: None,
    }
    for job, end in zip(jobs, ends, strict=True):
        job.stream.begin([[1, 2]])
        how[end](job.stream)

    async def answer(request: Request) -> Response:
        request.state.owner, request.state.jobs = jobs[0].owner, jobs
        return Response("all of it")

    app = Starlette(routes=[Route("/several", answer)])
    TestClient(RequestIdMiddleware(AccessMiddleware(app, Metrics()))).get("/several")
    (line,) = told(access)
    assert (line["outcome"], line["work"], line["job"]) == (outcome, 2 * len(ends), ",".join(job.id for job in jobs))


def test_probes_are_for_the_level_debug(live: LiveServer, access: pytest.LogCaptureFixture) -> None:
    for path in ("/health", "/ready", "/metrics"):
        live.get(path)
    assert told(access) == []
    access.set_level(logging.DEBUG, logger="server")
    live.get("/ready")
    assert [line["path"] for line in told(access)] == ["/ready"]


def test_a_path_cannot_forge_a_line(live: LiveServer, access: pytest.LogCaptureFixture) -> None:
    live.get("/x%0aINFO%20server.access:%20request%1b[2J" + "y" * 1000)
    (record,) = [record for record in access.records if record.name == "server.access"]
    line = logs.TextFormatter().format(record)
    assert line.isprintable() and 'path="/x\\nINFO server.access: request\\u001b[2Jyyy' in line
    assert len(line) < 500


def test_nothing_of_a_request_is_logged_but_its_names(live: LiveServer, access: pytest.LogCaptureFixture) -> None:
    access.set_level(logging.DEBUG, logger="server")
    for stream in (True, False):
        live.post("/sample", BODY | {"prompt": "w11 w12", "include_text": True, "stream": stream})
        live.post("/sample", BODY | {"prompt": "w11 w12", "seq_len": 1, "stream": stream})
    httpx2.post(live.url + "/sample?secret=w11 w12", json=BODY | {"field": "w11 w12"})
    text = "\n".join(logs.JSONFormatter().format(record) for record in access.records if record.name[:6] == "server")
    drawn = re.compile(r"smp-[\w-]+|[0-9a-f]{32}")  # an id may hold any letters
    assert "/sample" in text and "w11" not in drawn.sub("", text)
