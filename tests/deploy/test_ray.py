"""deploy/ray_serve.py under `serve run`: the tests of one server's wire against two replicas, one killed, more and fewer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx2
import psutil
import pytest
import yaml

from tests.deploy.test_nginx import free_port
from tests.live_server import LiveServer, done_of, replay, tokens_of, wait_until
from tests.server.api.middleware.test_middleware import test_a_request_id_is_echoed  # noqa: F401
from tests.server.api.routes.test_sampling import (  # noqa: F401
    test_a_drawn_seed_is_returned_and_gives_the_samples_again,
    test_bodies_that_cannot_be_read,
    test_keyframes_come_when_asked_and_are_the_state_so_far,
    test_start_and_changes_replay_to_done,
    test_the_plain_answer_is_the_streams_last,
)
from token_diffusion_client import Client, SampleError

pytest_plugins = ["tests.server_fixtures"]

pytest.importorskip("ray.serve", reason="ray is not installed")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

LONG = {"seq_len": 96, "num_inference_steps": 1500, "num_samples": 4, "model": "uniform", "timeout_s": 300}
SHORT = {"seq_len": 24, "num_inference_steps": 8, "seed": 3, "model": "absorbing"}

WORK = 4 * 96 * 1500
"""Of `LONG`, in token passes."""

START_S = 240
"""Seconds for Ray, or for one more replica, on a machine that has other things to do."""


@dataclass(frozen=True)
class Cluster:
    """Ray on this machine with our application, at `url`. `met` are the replicas that have ever answered."""

    url: str
    process: psutil.Process
    http: httpx2.Client
    met: set[str] = field(default_factory=set)

    def replicas(self) -> list[psutil.Process]:
        return [child for child in self.process.children(recursive=True) if is_replica(child)]

    def ask(self, path: str, session: str | None = None) -> httpx2.Response:
        answer = self.http.get(self.url + path, headers={"X-Session-Id": session} if session else {})
        self.met.add(answer.headers["x-session-id"])
        return answer

    def sessions(self) -> set[str]:
        """The replicas that are there, of those that have been met."""
        self.ask("/ready")
        return {
            session for session in self.met.copy() if self.ask("/ready", session).headers["x-session-id"] == session
        }

    def rows(self, session: str) -> int:
        load: int = self.ask("/info", session).json()["load"]["rows"]
        return load


def is_replica(process: psutil.Process) -> bool:
    try:
        return any("ServeReplica" in argument for argument in process.cmdline()[:1])
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
def cluster(tiny_folders: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One replica, or two as soon as there is more to do than one `LONG` request."""
    folder, port = tmp_path_factory.mktemp("ray"), free_port()
    options = {"max_replicas": 2, "num_cpus": 0.1, "target_work": WORK, "look_back_s": 2}
    application = {
        "name": "default",
        "route_prefix": "/",
        "import_path": "deploy.ray_serve:app",
        "args": options | {"upscale_delay_s": 0, "downscale_delay_s": 3},
    }
    config = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application]}
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    checkpoints = ",".join(f"{name}={path}" for name, path in tiny_folders.items())
    with tempfile.TemporaryDirectory(prefix="td-ray-", dir="/tmp") as short_path:  # names of sockets are bounded
        environment = os.environ | {
            "TD_CHECKPOINT": checkpoints,
            "TD_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "RAY_TMPDIR": short_path,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
        }
        command = [sys.executable, "-m", "ray.serve.scripts", "run", str(folder / "serve.yaml")]
        with (
            open(folder / "log", "w+") as log,
            httpx2.Client(timeout=60, limits=httpx2.Limits(max_connections=None)) as http,
            ended(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)) as child,
        ):
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: child.poll() is not None or ready(http, url), START_S)
            log.seek(0)
            assert child.poll() is None, log.read()
            yield Cluster(url, psutil.Process(child.pid), http)


@contextmanager
def ended(child: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """In the end it has stopped, and all that it started."""
    try:
        yield child
    finally:
        family = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
        child.terminate()
        _, left = psutil.wait_procs([psutil.Process(child.pid), *family], timeout=60)
        for process in left:
            process.kill()
        child.wait()


def ready(http: httpx2.Client, url: str) -> bool:
    try:
        return http.get(url + "/ready").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture
def live(cluster: Cluster) -> LiveServer:
    """What the tests of the wire ask; they may not look into the process."""
    return LiveServer(cluster.url, cast(Any, None), cast(Any, None))


class Visitors:
    """Ask for one `LONG` stream after the other, so that the replicas have work; `visits` are how they ended, and where."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.visits: list[tuple[str, str | None]] = []
        self._cluster, self._over = cluster, threading.Event()
        self._threads = [threading.Thread(target=self._come_again) for _ in range(number)]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=90)
        assert not any(thread.is_alive() for thread in self._threads), "somebody waits for ever"

    def _come_again(self) -> None:
        with httpx2.Client(timeout=60) as http:
            while not self._over.is_set():
                session = None
                try:
                    with http.sse(self._cluster.url + "/sample", method="POST", json=LONG) as source:
                        session = source.response.headers.get("x-session-id")
                        self._cluster.met.update({session} if session else ())
                        if source.response.status_code != 200:
                            self.visits.append((str(source.response.status_code), session))
                            self._over.wait(1)
                            continue
                        self.visits.append((self._watch(source), session))
                except (httpx2.RemoteProtocolError, httpx2.ReadError):
                    self.visits.append(("broken", session))

    def _watch(self, source: httpx2.EventSource) -> str:
        last = "nothing"
        for event in source:
            last = event.event
            if self._over.is_set():
                return "left"
        return last


@contextmanager
def two_replicas(cluster: Cluster) -> Iterator[Visitors]:
    with Visitors(cluster, 4) as visitors:
        wait_until(lambda: len(cluster.sessions()) == 2, START_S)
        yield visitors


def test_replicas_come_with_the_work_and_go_with_it(cluster: Cluster) -> None:
    wait_until(lambda: len(cluster.replicas()) == 1, START_S)
    with two_replicas(cluster) as visitors:
        assert len(cluster.replicas()) == 2
        sessions = cluster.sessions()
        wait_until(lambda: {session for _, session in visitors.visits} >= sessions, START_S)
    assert {outcome for outcome, _ in visitors.visits} <= {"done", "left", "429"}
    with cluster.http.sse(cluster.url + "/sample", method="POST", json=LONG) as source:
        events = list(source)
    assert replay(events) == tokens_of(done_of(events))
    wait_until(lambda: len(cluster.replicas()) == 1, START_S)
    assert cluster.ask("/ready").status_code == 200


def test_a_session_is_a_replica_and_a_seed_is_the_same_in_each(cluster: Cluster) -> None:
    with two_replicas(cluster):
        sessions = cluster.sessions()
        for session in sessions:
            assert {cluster.ask("/info", session).headers["x-session-id"] for _ in range(6)} == {session}
            lost = cluster.ask(f"/requests/smp-{session}-lost/events")  # by the id alone
            assert (lost.status_code, lost.headers["x-session-id"]) == (404, session)
        assert cluster.ask("/info", "gone").headers["x-session-id"] in sessions
        plain = [
            cluster.http.post(
                cluster.url + "/sample", json=SHORT | {"stream": False}, headers={"X-Session-Id": session}
            )
            for session in sessions
        ]
        assert {answer.headers["x-session-id"] for answer in plain} == sessions
        assert tokens_of(plain[0].json()) == tokens_of(plain[1].json())


def test_leaving_frees_the_rows(cluster: Cluster) -> None:
    with cluster.http.sse(cluster.url + "/sample", method="POST", json=LONG) as source:
        session = source.response.headers["x-session-id"]
        events = iter(source)
        assert json.loads(next(events).data)["id"].startswith(f"smp-{session}-") and next(events).event == "state"
        assert cluster.rows(session) >= 4
    wait_until(lambda: cluster.rows(session) == 0)


def test_no_room_is_429_with_the_replicas_own_time(cluster: Cluster) -> None:
    with Client(cluster.url, timeout=60) as client:
        with pytest.raises(SampleError) as refusal:
            client.sample(seq_len=10**6)
        assert (refusal.value.code, refusal.value.param) == (422, "seq_len")
    streams = []
    try:
        for _ in range(400):
            request = cluster.http.build_request("POST", cluster.url + "/sample", json=LONG)
            streams.append(cluster.http.send(request, stream=True))
            if streams[-1].status_code != 200:
                break
        assert streams[-1].status_code == 429
        assert streams[-1].read() and streams[-1].json()["error"]["type"] == "overloaded"
        assert int(streams[-1].headers["retry-after"]) >= 1
    finally:
        for stream in streams:
            stream.close()


def test_a_replica_that_is_killed_takes_only_its_own_streams_along(cluster: Cluster) -> None:
    with two_replicas(cluster) as visitors:
        sessions = cluster.sessions()
        wait_until(lambda: all(cluster.rows(session) for session in sessions), START_S)
        before = len(visitors.visits)
        victim = cluster.replicas()[0]
        victim.kill()
        wait_until(lambda: "broken" in {outcome for outcome, _ in visitors.visits[before:]})
        (survivor,) = cluster.sessions() & sessions
        assert cluster.rows(survivor) > 0
        (lost,) = sessions - {survivor}
        assert {session for outcome, session in visitors.visits if outcome == "broken"} == {lost}
        answer = cluster.http.post(cluster.url + "/sample", json=SHORT | {"stream": False})
        assert answer.status_code == 200
        wait_until(lambda: len(cluster.sessions() - {survivor}) == 1, START_S)  # a new one has taken its place
