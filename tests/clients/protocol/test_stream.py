"""A stream over several connections: through a proxy that cuts them, before a live server, and by a script."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import token_diffusion_client.protocol.stream
from tests.clients.cutting_proxy import cutting
from tests.clients.scripted_server import EVENTS, Reply, Scripted, answer, envelope, scripted, sse
from tests.live_server import LiveServer, faked, serving, wait_until
from token_diffusion.checkpoint import Checkpoint
from token_diffusion_client import (
    BlockEvent,
    Canvas,
    Client,
    DoneEvent,
    Endpoint,
    Event,
    IncompleteStream,
    SampleError,
    StartEvent,
    StateEvent,
)

pytest_plugins = ["tests.server_fixtures", "tests.clients.both"]

REQUEST: dict[str, Any] = {"prompt": "w3 w4", "num_samples": 2, "seq_len": 20, "num_inference_steps": 16, "seed": 5}

LONG: dict[str, Any] = {"seq_len": 64, "num_inference_steps": 1000, "seed": 3}

ID = {"X-Sample-Id": "smp-1"}


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_diffusion_client.protocol.stream, "PAUSES_S", (0.01,) * 6)


@pytest.fixture(scope="module")
def slow(tiny: Mapping[str, Checkpoint]) -> Iterator[LiveServer]:
    """A server whose streams last a second or two."""
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.03)
    with serving({"absorbing": checkpoint}) as server:
        yield server


def final(events: list[Event]) -> list[list[int]]:
    """The canvas that the events lead to, which must be that of the last one; the first alone is a beginning."""
    start, *others = events
    assert isinstance(start, StartEvent)
    canvas = Canvas(start)
    for event in others:
        assert not isinstance(event, StartEvent)
        canvas.apply(event)
    done = others[-1]
    assert isinstance(done, DoneEvent)
    assert canvas.tokens == [sample.tokens for sample in done.samples]
    assert [isinstance(event, DoneEvent) for event in others].count(True) == 1
    return canvas.tokens


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize(
    ("endpoint", "fields", "reset"),
    [
        ("sample", {"model": "absorbing"}, False),
        ("sample", {"model": "uniform"}, True),
        ("sample/block", {"model": "absorbing", "block_size": 4, "include_text": True}, True),
        ("sample/hybrid", {"stream_every": 2}, False),
    ],
)
def test_a_connection_that_is_cut_leaves_no_seam(
    connect: type[Client], live: LiveServer, endpoint: Endpoint, fields: dict[str, Any], reset: bool
) -> None:
    with connect(live.url) as client:
        undisturbed = list(client.stream_sample(endpoint=endpoint, **REQUEST | fields))
    # Within the headers of an answer, too, and within an event; the first cut is after the first headers.
    with cutting(live.url, [700, 150, 900, 333, 600, 0, 1200], reset=reset) as proxy, connect(proxy.url) as client:
        events = list(client.stream_sample(endpoint=endpoint, **REQUEST | fields))
        assert proxy.num_cut >= 3
    assert final(events) == final(undisturbed)
    blocks = [event for event in events if isinstance(event, BlockEvent)]
    assert blocks == [event for event in undisturbed if isinstance(event, BlockEvent)]
    steps = [event.step for event in events if isinstance(event, StateEvent)]
    assert steps == sorted(steps)


@pytest.mark.usefixtures("short_pauses")
def test_a_cut_while_it_runs_leaves_no_seam(connect: type[Client], slow: LiveServer) -> None:
    with connect(slow.url) as client:
        expected = client.sample(**REQUEST)
    with cutting(slow.url, [300, 1200, 500]) as proxy, connect(proxy.url) as client:
        events = list(client.stream_sample(**REQUEST))
        assert proxy.num_cut == 3
    assert final(events) == [sample.tokens for sample in expected.samples]


def test_who_leaves_in_the_middle_ends_the_request_at_once(connect: type[Client], slow: LiveServer) -> None:
    """Though the server would keep it for longer than this test takes."""
    with connect(slow.url) as client:
        for leave in ("close", "break", "client"):
            other = connect(slow.url)
            events = other.stream_sample(**LONG)
            assert isinstance(next(events), StartEvent)
            assert client.info()["load"]["rows"] == 1
            if leave == "close":
                events.close()
            elif leave == "client":
                other.close()
            else:
                for _ in events:
                    break
                del events
            wait_until(lambda: slow.engine.idle, timeout_s=1)
            other.close()


def test_a_request_that_is_kept_can_be_left_and_come_back_to(connect: type[Client], slow: LiveServer) -> None:
    with connect(slow.url) as client:
        events = client.stream_sample(**REQUEST, on_disconnect="keep")
        start = next(events)
        assert isinstance(start, StartEvent)
        events.close()
        assert client.status(start.id)["status"] in ("waiting", "running")
        told = list(client.attach(start.id))
        assert final(told) == [sample.tokens for sample in client.sample(**REQUEST).samples]
        status = client.status(start.id)
        assert status["status"] == "done" and status["done"]["seed"] == 5
        (done,) = client.attach(start.id, last_event_id=str(status["done"]["usage"]["nfe"] + 1))
        assert done == told[-1]


def test_attaching_comes_back_too(connect: type[Client], slow: LiveServer) -> None:
    with connect(slow.url) as client, cutting(slow.url, [900, 700]) as proxy, connect(proxy.url) as other:
        events = client.stream_sample(**REQUEST)
        start = next(events)
        assert isinstance(start, StartEvent)
        told = list(other.attach(start.id))
        assert proxy.num_cut == 2
        assert final(told) == final([start, *events])


def test_a_request_can_be_cancelled_by_its_id(connect: type[Client], slow: LiveServer) -> None:
    with connect(slow.url) as client:
        events = client.stream_sample(**LONG)
        start = next(events)
        assert isinstance(start, StartEvent)
        client.cancel(start.id)
        with pytest.raises(SampleError) as ended:
            list(events)
        assert (ended.value.type, ended.value.code) == ("cancelled", 499)
        with pytest.raises(SampleError) as unknown:
            client.cancel(start.id)
        assert unknown.value.code == 404
        with pytest.raises(SampleError) as unknown:
            next(client.attach(start.id))
        assert unknown.value.code == 404


def test_who_does_not_want_to_come_back_does_not(connect: type[Client], slow: LiveServer) -> None:
    with cutting(slow.url, [900]) as proxy, connect(proxy.url) as client:
        with pytest.raises(IncompleteStream, match=r"without done or error$"):
            list(client.stream_sample(**LONG, on_disconnect="cancel"))
        assert len(proxy.connections) == 1
        wait_until(lambda: slow.engine.idle, timeout_s=2)


def cut_after(number: int, then: Reply | None = None) -> Reply:
    return Reply([sse(EVENTS[:number])], "abort", headers=ID, then=then)


def read_all(connect: type[Client], server: Scripted) -> list[Event]:
    with connect(server.url) as client:
        return list(client.stream_sample())


def rest(first: int) -> bytes:
    """The events from number `first` on."""
    parts = sse().split(b"\n\n")
    return b"\n\n".join(parts[1 + first :])


def test_the_way_back_is_asked_after_the_last_event(connect: type[Client], pauses: list[float]) -> None:
    again = Reply([rest(3)])
    with scripted(sample=cut_after(3)) as server:
        server.replies["/requests/smp-1/events"] = again
        events = read_all(connect, server)
        assert [(request.method, request.path) for request in server.requests] == [
            ("POST", "/sample"),
            ("GET", "/requests/smp-1/events"),
        ]
        assert server.requests[1].last_event_id == "2"
    assert len(events) == len(EVENTS) and isinstance(events[-1], DoneEvent)
    assert len(pauses) == 1 and pauses[0] < 0.2


def test_a_server_that_asks_for_patience_gets_it(connect: type[Client], pauses: list[float]) -> None:
    busy = Reply(
        answer(envelope(503)).chunks, status=503, content_type="application/json", headers={"Retry-After": "5"}
    )
    busy.then = Reply([b"Bad Gateway"], status=502, content_type="text/html", then=Reply([rest(1)]))
    with scripted(sample=cut_after(1)) as server:
        server.replies["/requests/smp-1/events"] = busy
        assert len(read_all(connect, server)) == len(EVENTS)
    assert len(pauses) == 3
    assert pauses[0] < 0.2 and pauses[1] == 5 and 0.5 <= pauses[2] <= 1.5


def test_nobody_waits_for_longer_than_a_request_is_kept(connect: type[Client], pauses: list[float]) -> None:
    busy = Reply(
        answer(envelope(429)).chunks, status=429, content_type="application/json", headers={"Retry-After": "900"}
    )
    busy.then = Reply([rest(1)])
    with scripted(sample=cut_after(1)) as server:
        server.replies["/requests/smp-1/events"] = busy
        read_all(connect, server)
    assert pauses[1] == token_diffusion_client.protocol.stream.LONGEST_PAUSE_S


def test_a_server_that_stays_away_is_given_up(connect: type[Client], pauses: list[float]) -> None:
    with scripted(sample=cut_after(2)) as server:
        server.replies["/requests/smp-1/events"] = Reply([], "abort")
        with pytest.raises(IncompleteStream, match="ended after a state event, without done or error"):
            read_all(connect, server)
    assert len(pauses) == len(token_diffusion_client.protocol.stream.PAUSES_S) and max(pauses) <= 12


def test_a_request_that_is_known_no_more_is_given_up_at_once(connect: type[Client], pauses: list[float]) -> None:
    with scripted(sample=cut_after(2)) as server:
        with pytest.raises(IncompleteStream, match="it cannot be read on: not here"):
            read_all(connect, server)
        assert [request.method for request in server.requests] == ["POST", "GET"]
    assert len(pauses) == 1


def test_progress_gives_new_patience(connect: type[Client], pauses: list[float]) -> None:
    """Every connection brings one event more, and there are more of them than tries."""
    states = [("state", {"step": step, "t": 0.5, "nfe": step, "changes": []}) for step in range(1, 11)]
    parts = sse([EVENTS[0], *states, EVENTS[-1]]).split(b"\n\n")[1:-1]
    reply = Reply([parts[-1] + b"\n\n"], headers=ID)
    for part in reversed(parts[1:-1]):
        reply = Reply([part + b"\n\n"], "abort", headers=ID, then=reply)
    with scripted(sample=Reply([parts[0] + b"\n\n"], "abort", headers=ID)) as server:
        server.replies["/requests/smp-1/events"] = reply
        events = read_all(connect, server)
    assert [event.step for event in events if isinstance(event, StateEvent)] == list(range(1, 11))
    assert len(pauses) == 11 and max(pauses) < 0.2


def test_an_error_event_is_an_end(connect: type[Client], pauses: list[float]) -> None:
    error = {"error": {"message": "not finished within 60 s", "type": "timeout", "param": "timeout_s", "code": 504}}
    with scripted(sample=Reply([sse([EVENTS[0], ("error", error)])], headers=ID)) as server:
        with pytest.raises(SampleError, match="not finished within 60 s"):
            read_all(connect, server)
        assert [request.method for request in server.requests] == ["POST"]
    assert pauses == []


def test_ctrl_c_in_the_terminal_ends_the_request(slow: LiveServer) -> None:
    # A shell's background job is started with SIGINT ignored, and so would be what it starts in turn.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "clients", "sample", "--json", "--url", slow.url, "--seq_len", "64"]
    try:
        with subprocess.Popen(
            [*command, "--num_inference_steps", "1000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        ) as client:
            assert isinstance(client.stdout, io.TextIOBase)
            assert len(list(itertools.islice(client.stdout, 2))) == 2
            client.send_signal(signal.SIGINT)
            wait_until(lambda: slow.engine.idle, timeout_s=2)
            _, error = client.communicate(timeout=30)
            assert (error, client.returncode) == ("python -m clients: interrupted\n", 130)
    finally:
        signal.signal(signal.SIGINT, before)
