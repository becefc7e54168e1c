from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from urllib.parse import urljoin

import httpx2
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from server.api.middleware.proxies import ForwardedMiddleware, RootPathMiddleware, route_path
from server.api.middleware.request_id import RequestIdMiddleware
from tests.live_server import LiveServer, faked, serving
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]


class Seen:
    """An app that remembers the scope of its last request."""

    scope: Scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def told(trusted: list[str], headers: list[tuple[str, str]], peer: str = "10.0.0.9") -> tuple[str, str]:
    """Client and scheme that an app behind the middleware sees."""
    seen = Seen()
    client = TestClient(ForwardedMiddleware(seen, trusted), client=(peer, 5))
    client.get("/", headers=httpx2.Headers(headers))
    return seen.scope["client"][0], seen.scope["scheme"]


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        (["10.0.0.9"], "1.2.3.4", "1.2.3.4"),
        (["10.0.0.0/8"], "6.6.6.6, 1.2.3.4, 10.1.1.1", "1.2.3.4"),
        (["10.0.0.0/8"], "1.2.3.4:99", "1.2.3.4"),
        (["10.0.0.9"], "[2001:db8::1]:99", "2001:db8::1"),
        (["10.0.0.8"], "1.2.3.4", "10.0.0.9"),
        (["10.0.0.9"], "", "10.0.0.9"),
        (["10.0.0.9"], "\x1b[31mred", "10.0.0.9"),
        (["10.0.0.9"], "fe80::1%\x1b[31m", "fe80::1"),
        (["10.0.0.9"], "unknown", "10.0.0.9"),
        (["10.0.0.9"], "1.2.3.4, unknown", "10.0.0.9"),
    ],
)
def test_only_a_trusted_proxy_is_believed_and_only_an_address(trusted: list[str], forwarded: str, client: str) -> None:
    headers = [("X-Forwarded-For", forwarded), ("X-Forwarded-Proto", "https")]
    assert told(trusted, headers) == (client, "http" if trusted == ["10.0.0.8"] else "https")


def test_the_last_of_two_headers_is_the_nearer_proxys() -> None:
    assert told(["10.0.0.9"], [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "1.2.3.4")])[0] == "1.2.3.4"
    assert told(["10.0.0.9"], [("X-Forwarded-Proto", "gopher\x1b")])[1] == "http"


@pytest.mark.parametrize("asked", ["/a/b/c", "/c"])
def test_a_prefix_may_be_taken_away_or_not(asked: str) -> None:
    seen = Seen()
    TestClient(RootPathMiddleware(seen, "/a/b")).get(asked)
    assert (seen.scope["path"], seen.scope["raw_path"], seen.scope["root_path"]) == ("/a/b/c", b"/a/b/c", "/a/b")
    assert route_path(seen.scope) == "/c"
    assert Request(seen.scope).url.path == "/a/b/c"


def test_what_only_looks_like_the_prefix_is_not() -> None:
    seen = Seen()
    TestClient(RootPathMiddleware(seen, "/a")).get("/ab")
    assert (seen.scope["path"], route_path(seen.scope)) == ("/a/ab", "/ab")


def test_a_server_under_a_prefix(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, _ = faked(tiny["absorbing"])
    body = {"seq_len": 4, "num_inference_steps": 2, "stream": False}
    key = {"Authorization": "Bearer secret"}
    with serving({"absorbing": checkpoint}, root_path="/models/small", api_key="secret") as server:
        for prefix in ("", "/models/small"):
            assert server.post(f"{prefix}/sample", body, headers=key).status_code == 200
            assert server.get(f"{prefix}/health").status_code == server.get(f"{prefix}/docs").status_code == 200
            assert server.get(f"{prefix}/models").status_code == 401
            assert server.get(f"{prefix}/nothing", headers=key).status_code == 404
            document = server.get(f"{prefix}/openapi.json", headers=key).json()
            assert document["servers"] == [{"url": "/models/small"}]
            assert "/sample" in document["paths"]
            page = server.get(f"{prefix}/")
            assert page.status_code == 200 and "location" not in page.headers
        bare = server.get("/models/small")
        assert (bare.status_code, urljoin("https://proxy/models/small", bare.headers["location"])) == (
            307,
            "https://proxy/models/small/",
        )


@pytest.mark.parametrize("path", ["/sample/", "/health/", "/docs/", "//evil.example/health/"])
def test_nobody_is_sent_to_the_host_that_a_request_names(live: LiveServer, path: str) -> None:
    answer = live.get(path, headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


def test_what_a_client_forges_does_not_reach_the_log_as_it_is(
    tiny: Mapping[str, Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    checkpoint, _ = faked(tiny["absorbing"])
    red = "\x1b[31m"
    body = '{"seq_len": 4, "num_inference_steps": 2, "stream": false}'
    end = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    start, headers = "POST /sample HTTP/1.1", "Host: x\r\nContent-Type: application/json"
    with serving({"absorbing": checkpoint}, trusted_proxies=["127.0.0.1"]) as server:
        statuses = [
            exchange(server, f"{first}\r\n{headers}\r\n{forged}\r\n{end}")
            for first, forged in [
                (start, "X-Forwarded-For: forged forged"),
                (start, "X-Forwarded-For: fe80::1%forged"),
                ("POST /sample?%1b%0aforged HTTP/1.1", "X-Request-Id: forged forged"),
                ("POST /%1b[31m%0aforged HTTP/1.1", "User-Agent: forged"),
                (start, f"X-Forwarded-For: {red}"),
                (start, f"X-Request-Id: {red}"),
                (f"POST /{red} HTTP/1.1", "User-Agent: forged"),
                (f"P{red} /sample HTTP/1.1", "User-Agent: forged"),
            ]
        ]
    assert statuses == [200, 200, 200, 404, 400, 400, 400, 400]
    lines = [caplog.handler.format(record) for record in caplog.records]
    assert len(lines) > len(statuses)
    assert not [line for line in lines if not line.isprintable() or "forged" in line.lower().replace("%0aforged", "")]


def test_a_fault_is_logged_with_a_path_that_can_be_read(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    assert TestClient(RequestIdMiddleware(broken)).get("/%1b%0a/caf\u00e9").status_code == 500
    assert caplog.messages[0].endswith(": GET /%1B%0A/caf%C3%A9 failed")


def exchange(server: LiveServer, request: str) -> int:
    """The status that a request of these very bytes is answered with."""
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=10) as client:
        client.sendall(request.encode("latin-1"))
        received = b"".join(iter(lambda: client.recv(2**16), b""))
    return int(received.split(b" ", 2)[1])
