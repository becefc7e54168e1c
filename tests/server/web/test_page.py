from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from concurrent.futures import Future
from urllib.parse import quote, urljoin, urlsplit

import pytest
from starlette.testclient import TestClient

from server.app import create_app
from server.settings import Settings
from server.web.page import STATIC
from server.work.engine import Engine
from tests.live_server import LiveServer, faked, serving
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

FILES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*.*") if path.name != "index.html")
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
LINKS = re.compile(r"""(?:(?:href|src)=|^\s*(?:import|export)\b.*?\bfrom\s*|^\s*import\s*)"([^"#]+)\"""", re.MULTILINE)


def raw(server: LiveServer, method: str, target: str) -> tuple[int, bytes]:
    """Status and body; the target goes out as it is."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_everything_that_the_page_and_its_files_refer_to_is_served_from_here(live: LiveServer) -> None:
    seen, left = set(), ["/"]
    while left:
        path = left.pop()
        answer = live.get(path)
        assert answer.status_code == 200, path
        kind = urlsplit(path).path.rpartition(".")[2] if path.startswith("/web/") else "html"
        assert answer.headers["content-type"] == MEDIA_TYPES[kind], path
        seen.add(path)
        links = [urljoin(path, link) for link in LINKS.findall(answer.text) if not link.startswith("data:")]
        left += [link for link in links if link.startswith(("/web/", "/docs")) and link not in {*seen, *left, "/docs"}]
        assert [link for link in links if ":" in link] == []
    assert {path.removeprefix("/web/") for path in seen - {"/"}} == set(FILES)


@pytest.mark.parametrize("path", ["/", *(f"/web/{name}" for name in FILES)])
def test_a_browser_runs_nothing_else_and_asks_nobody_else(live: LiveServer, path: str) -> None:
    answer = live.get(path)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert (
        policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    )
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert {source for allowed in policy.values() for source in allowed.split()} == {
        "'none'",
        "'self'",
        "data:",
        "blob:",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_file_is_sent_again_only_when_it_has_changed(live: LiveServer) -> None:
    first = live.get("/")
    assert first.headers["cache-control"] == "no-cache"
    again = live.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert live.get("/", headers={"If-None-Match": '"other"'}).content == first.content


def test_head_tells_what_get_would(live: LiveServer) -> None:
    status, body = raw(live, "HEAD", "/")
    assert (status, body) == (200, b"")
    answer = live.post("/", {})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "target",
    [
        "/web/",
        "/web/nothing.js",
        "/web/index.html",
        "/web/../page.py",
        "/web/%2e%2e/page.py",
        "/web/..%2f..%2fsettings.py",
        "/web/..%5cpage.py",
        "/web//etc/passwd",
        "/web/%2fetc%2fpasswd",
        "/web/%00",
        "/web/%ff",
        "/web/" + "a" * 5000,
        "/web/" + quote("<script>\u202e\x1b[31m"),
    ],
)
def test_there_is_nothing_beside_the_page_s_own_files(live: LiveServer, target: str) -> None:
    status, body = raw(live, "GET", target)
    assert status == 404
    assert body.startswith(b'{"error":{"message":"GET /web/')


def test_the_page_is_not_part_of_the_api(live: LiveServer) -> None:
    paths = live.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/web")]


def test_it_is_counted_under_two_names_whatever_is_asked_for(live: LiveServer) -> None:
    for path in ("/", "/web/x", "/web/y/z"):
        live.get(path)
    endpoints = set(re.findall(r'endpoint="([^"]*)"', live.get("/metrics").text))
    assert {"/", "/web/{name:path}"} <= endpoints
    assert not [name for name in endpoints if name.startswith(("/web/x", "/web/y"))]


def test_it_is_there_before_the_checkpoints_are() -> None:
    never: Future[Engine] = Future()
    with TestClient(create_app(Settings(), never)) as client:
        assert client.get("/").status_code == 200
        assert client.get("/ready").status_code == 503


def test_it_needs_no_key_and_can_be_left_out(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, _ = faked(tiny["absorbing"])
    with serving({"absorbing": checkpoint}, api_key="secret") as server:
        assert [server.get(path).status_code for path in ("/", "/web/nothing", "/info")] == [200, 404, 401]
    with serving({"absorbing": checkpoint}, pages=False) as server:
        assert [server.get(path).status_code for path in ("/", "/web/x", "/docs", "/info")] == [404, 404, 404, 200]
