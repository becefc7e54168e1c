from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping

import httpx2
import pytest

from tests.live_server import LiveServer, faked, serving
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

BODY = {"seq_len": 4, "num_inference_steps": 2, "stream": False}


@pytest.fixture(scope="module")
def guarded(tiny: Mapping[str, Checkpoint]) -> Iterator[LiveServer]:
    checkpoint, _ = faked(tiny["absorbing"])
    with serving(
        {"absorbing": checkpoint}, api_key="secret", cors_origins=["http://page"], max_body_bytes=300
    ) as server:
        yield server


KEY = {"Authorization": "Bearer secret"}


def test_a_preflight_needs_no_key_and_a_refusal_can_be_read_by_the_page(guarded: LiveServer) -> None:
    for method, names in [
        ("POST", "authorization, content-type"),
        ("DELETE", "authorization"),
        ("GET", "last-event-id"),
        ("POST", "authorization, content-type, x-stainless-lang, x-stainless-retry-count, openai-organization"),
    ]:
        asked = {
            "Origin": "http://page",
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": names,
        }
        preflight = httpx2.options(guarded.url + "/sample", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "http://page"
        allowed = preflight.headers["access-control-allow-headers"].lower()
        assert set(names.split(", ")) <= set(allowed.split(", "))
    refused = guarded.get("/info", headers={"Origin": "http://page"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "http://page"
    assert refused.headers["access-control-expose-headers"] == "X-Request-Id, X-Sample-Id, Retry-After"
    other = guarded.get("/info", headers=KEY | {"Origin": "http://elsewhere"})
    assert "access-control-allow-origin" not in other.headers


def test_without_origins_no_page_may_call(live: LiveServer) -> None:
    response = live.get("/info", headers={"Origin": "http://page"})
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("given", ["a", "trace-1/2:3", "~" * 128])
def test_a_request_id_is_echoed(live: LiveServer, given: str) -> None:
    assert live.get("/health", headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "caf\u00e9", "a\tb"])
def test_a_request_id_that_could_harm_a_log_is_replaced(live: LiveServer, given: str) -> None:
    answers = [live.get("/health", headers={"X-Request-Id": given.encode("latin-1")}) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(len(made) == 32 and made.isalnum() for made in ids)
    assert ids[0] != ids[1]


def test_errors_carry_the_request_id(live: LiveServer) -> None:
    answer = live.get("/nothing", headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (404, "mine")


def test_a_body_of_the_limit_passes_and_a_longer_one_does_not(guarded: LiveServer) -> None:
    headers = KEY | {"Content-Type": "application/json"}
    body = json.dumps(BODY).encode()
    fits = body + b" " * (300 - len(body))
    assert httpx2.post(guarded.url + "/sample", content=fits, headers=headers).status_code == 200
    refused = httpx2.post(guarded.url + "/sample", content=fits + b" ", headers=headers)
    assert refused.status_code == refused.json()["error"]["code"] == 413
    assert refused.json()["error"]["message"] == "the body must be at most 300 bytes"


def test_a_chunked_body_is_counted_while_it_is_read(guarded: LiveServer) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(40):
            yield b"w1 " * 10
        yield b'"}'

    headers = KEY | {"Content-Type": "application/json"}
    refused = httpx2.post(guarded.url + "/sample", content=chunks(), headers=headers)
    assert refused.status_code == refused.json()["error"]["code"] == 413


def test_a_body_that_never_ends_is_cut_off(guarded: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", int(guarded.url.rsplit(":", 1)[1])), timeout=10) as client:
        client.sendall(
            b"POST /sample HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100\r\n" + b"x" * 0x100 + b"\r\n"
        client.sendall(chunk * 2)
        received = b"".join(iter(lambda: client.recv(2**16), b""))
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"the body must be at most 300 bytes" in received
