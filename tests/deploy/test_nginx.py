"""deploy/nginx in Debian's nginx: before servers that only record what reaches them, and before two real ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.live_server import done_of, replay, tokens_of, wait_until

pytest_plugins = ["tests.server_fixtures"]

ROOT = Path(__file__).parents[2]
NGINX = shutil.which("nginx")

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

LONG = {"seq_len": 96, "num_inference_steps": 1500, "num_samples": 4, "timeout_s": 300}
"""Of the uniform process: about a thousand forward passes."""

SHORT = {"seq_len": 24, "num_inference_steps": 8, "seed": 3}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    """One for all: it takes longer to make than to use."""
    with httpx2.Client(timeout=30) as client:
        yield client


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@contextmanager
def running(http: httpx2.Client, command: Sequence[str], url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers at `url`; killed in the end."""
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: child.poll() is not None or answers(http, url), timeout_s=120)
        assert child.poll() is None, "it ended before it answered"
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def answers(http: httpx2.Client, url: str) -> bool:
    try:
        return http.get(url).status_code < 500
    except httpx2.TransportError:
        return False


@contextmanager
def proxy(http: httpx2.Client, folder: Path, servers: Sequence[str]) -> Iterator[str]:
    """nginx before `servers` (host:port), with our configuration but for its port and the list of servers."""
    port = free_port()
    text = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text(encoding="utf-8")
    text, found = re.subn(r"listen 8080;", f"listen 127.0.0.1:{port};", text)
    assert found == 1
    (folder / "nginx.conf").write_text(text.replace("access_log /dev/stdout", f"access_log {folder}/access.log"))
    (folder / "upstream.conf").write_text(upstream(servers))
    assert NGINX is not None
    globals = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")  # else its workers may not enter `folder`
    command = [NGINX, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", globals]
    with running(http, command, f"http://127.0.0.1:{port}/metrics"):
        yield f"http://127.0.0.1:{port}"


def upstream(servers: Sequence[str]) -> str:
    """upstream.conf for these servers: theirs is the place of the one name that compose's DNS knows."""
    text = (ROOT / "deploy" / "nginx" / "upstream.conf").read_text(encoding="utf-8")
    text, resolvers = re.subn(r"^resolver .*;$", "", text, flags=re.MULTILINE)
    line = re.search(r"server server:8000 resolve (.*;)", text)
    assert resolvers == 1 and line is not None
    return text.replace(line[0], "\n".join(f"server {server} {line[1]}" for server in servers))


class Recorder(ThreadingHTTPServer):
    """Records every request, and knows the requests of `ids` alone; with `breaks` it hangs up instead of answering."""

    def __init__(self, *ids: str, breaks: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Recording)
        self.ids, self.breaks = ids, breaks
        self.seen: list[tuple[str, Mapping[str, str]]] = []
        self.address = f"127.0.0.1:{self.server_address[1]}"

    @classmethod
    @contextmanager
    def serving(cls, *ids: str, breaks: bool = False) -> Iterator[Recorder]:
        server = cls(*ids, breaks=breaks)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Recording(BaseHTTPRequestHandler):
    server: Recorder

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, dict(self.headers)))
        if self.server.breaks:
            return
        found = not self.path.startswith("/requests/") or self.path.split("/")[2] in self.server.ids
        if self.path == "/full":
            self.send_response(429)
            self.send_header("Retry-After", "7")
        else:
            self.send_response(200 if found else 404)
        body = json.dumps({"server": self.server.address, "path": self.path}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_compose_runs_this_configuration() -> None:
    text = (ROOT / "deploy" / "compose.scale.yml").read_text(encoding="utf-8").replace("!reset ", "")
    services = yaml.safe_load(text)["services"]
    assert services["server"]["ports"] == []
    nginx, configuration = services["nginx"], (ROOT / "deploy" / "nginx" / "nginx.conf").read_text(encoding="utf-8")
    (mount,) = nginx["volumes"]
    source, target, _ = mount.split(":")
    assert (ROOT / source / "nginx.conf").exists() and f"{target}/nginx.conf" in nginx["command"]
    assert re.findall(r"listen (\d+);", configuration) == [port.rpartition(":")[2] for port in nginx["ports"]]
    base = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert "server" in base and "nginx" not in base


@pytest.fixture
def recorders() -> Iterator[tuple[Recorder, Recorder]]:
    with Recorder.serving("one") as first, Recorder.serving("two") as second:
        yield first, second


def test_a_request_by_its_id_reaches_the_server_that_holds_it(
    http: httpx2.Client, tmp_path: Path, recorders: tuple[Recorder, Recorder]
) -> None:
    with proxy(http, tmp_path, [server.address for server in recorders]) as url:
        for server in recorders:
            for method in ("GET", "DELETE") * 3:
                path = f"/requests/{server.ids[0]}"
                response = http.request(method, url + path + ("/events" if method == "GET" else ""))
                assert response.status_code == 200 and response.json()["server"] == server.address
        unknown = http.get(url + "/requests/three/events")
        assert unknown.status_code == 404 and "server" in unknown.json()  # a server's own words


def test_nobody_forges_an_address_and_429_passes(
    http: httpx2.Client, tmp_path: Path, recorders: tuple[Recorder, Recorder]
) -> None:
    with proxy(http, tmp_path, [server.address for server in recorders]) as url:
        full = http.get(url + "/full", headers={"X-Forwarded-For": "10.9.8.7", "Last-Event-ID": "5"})
        assert full.status_code == 429 and full.headers["retry-after"] == "7"
        seen = dict(recorders[0].seen + recorders[1].seen)["GET"]
        assert seen["X-Forwarded-For"] == "127.0.0.1" and seen["Last-Event-ID"] == "5"
        assert seen["Host"] == url.removeprefix("http://")


def test_a_body_that_no_server_takes_is_refused_before_them(
    http: httpx2.Client, tmp_path: Path, recorders: tuple[Recorder, Recorder]
) -> None:
    with proxy(http, tmp_path, [server.address for server in recorders]) as url:
        refused = http.post(url + "/sample", content=b"x" * (2**20 + 1))
        assert refused.status_code == 413 and refused.json()["error"]["code"] == 413
        assert http.post(url + "/sample", content=b"x" * 2**20).status_code == 200
        assert len(recorders[0].seen) + len(recorders[1].seen) == 1


def test_a_post_is_sent_again_only_where_nobody_has_seen_it(http: httpx2.Client, tmp_path: Path) -> None:
    with ExitStack() as stack:
        breaking = [stack.enter_context(Recorder.serving(breaks=True)) for _ in range(2)]
        url = stack.enter_context(proxy(http, tmp_path, [server.address for server in breaking]))
        gone = http.post(url + "/sample", json={})
        assert gone.status_code == 502 and gone.headers["retry-after"] == "2"
        assert gone.json()["error"]["type"] == "unavailable"
        assert [method for server in breaking for method, _ in server.seen] == ["POST"]
        assert http.get(url + "/models").status_code == 502
        assert [method for server in breaking for method, _ in server.seen].count("GET") == 2


def test_a_server_that_is_not_there_is_passed_over(http: httpx2.Client, tmp_path: Path) -> None:
    with (
        Recorder.serving() as alive,
        proxy(http, tmp_path, [f"127.0.0.1:{free_port()}", alive.address]) as url,
        ThreadPoolExecutor(8) as pool,
    ):
        answered = list(pool.map(lambda _: http.post(url + "/sample", json={}).status_code, range(40)))
        assert answered == [200] * 40 and len(alive.seen) == 40


@pytest.fixture
def two_servers(http: httpx2.Client, tiny_folders: Mapping[str, Path]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Real servers by their host:port."""
    ports = [free_port() for _ in range(2)]
    flags = ["--checkpoint_path", str(tiny_folders["uniform"]), "--num_threads", "1", "--port"]
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        servers = [
            running(http, [sys.executable, "-m", "server", *flags, str(port)], f"http://127.0.0.1:{port}/ready")
            for port in ports
        ]
        children = list(pool.map(stack.enter_context, servers))
        yield {f"127.0.0.1:{port}": child for port, child in zip(ports, children, strict=True)}


@pytest.mark.slow
def test_two_servers_stream_and_one_is_killed(
    http: httpx2.Client, tmp_path: Path, two_servers: dict[str, subprocess.Popen[bytes]]
) -> None:
    def rows() -> list[int]:
        return [http.get(f"http://{server}/info").json()["load"]["rows"] for server in two_servers]

    def post(**more: object) -> httpx2.Response:
        return http.post(url + "/sample", json=SHORT | {"stream": False} | more)

    with proxy(http, tmp_path, list(two_servers)) as url:
        with ExitStack() as stack:
            streams = [open_stream(stack, http, url) for _ in range(2)]
            assert [next(events).event for events in streams] == ["state"] * 2  # long before the end
            assert rows() == [4, 4]  # the second stream went where there were fewer
            with http.sse(url + "/sample", method="POST", json=SHORT) as source:
                told = list(source)
            assert replay(told) == tokens_of(done_of(told)) == tokens_of(post().json())
        wait_until(lambda: rows() == [0, 0])  # they have heard that the clients left

        with ExitStack() as stack:
            streams = [open_stream(stack, http, url) for _ in range(2)]
            victim = next(iter(two_servers))
            two_servers[victim].kill()
            del two_servers[victim]
            broken, going = (streams[0], streams[1]) if next_of(streams[0]) is None else (streams[1], streams[0])
            assert next_of(broken) is None and next(going).event == "state"
            assert rows() == [4]
            assert [post().status_code for _ in range(8)] == [200] * 8


def open_stream(stack: ExitStack, http: httpx2.Client, url: str) -> Iterator[httpx2.ServerSentEvent]:
    """A long stream that has begun."""
    events = iter(stack.enter_context(http.sse(url + "/sample", method="POST", json=LONG)))
    assert next(events).event == "start"
    return events


def next_of(events: Iterator[httpx2.ServerSentEvent]) -> httpx2.ServerSentEvent | None:
    """A state that comes after what is on its way already; None if the stream breaks off."""
    try:
        for _ in range(50):
            event = next(events)
        return event
    except httpx2.RemoteProtocolError:
        return None
