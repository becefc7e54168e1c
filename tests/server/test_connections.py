"""What a connection may take: time for a request and for an answer, and a place among the others."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2
import pytest

from server.connections import MAX_HEADER_BYTES
from server.sockets.descriptors import Seldom, accepted
from server.sockets.reading import PIECE_BYTES
from tests.live_server import LiveServer, faked, serving, wait_until
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

SMALL = {"seq_len": 4, "num_inference_steps": 2, "stream": False}
LOUD = {"seq_len": 90, "num_samples": 16, "num_inference_steps": 10_000, "keyframe_every": 1, "include_text": True}
"""A stream of some kilobytes a step, for as long as there is somebody to read it."""
DEAR: dict[str, float] = {"max_request_work": 2**40, "max_outstanding_s": 1e9}
IMPATIENT = DEAR | {"header_timeout_s": 0.4, "body_timeout_s": 0.6, "send_timeout_s": 0.8, "keep_alive_s": 0.5}


@pytest.fixture(scope="module")
def impatient(tiny: Mapping[str, Checkpoint]) -> Iterator[LiveServer]:
    with serving({"uniform": faked(tiny["uniform"], delay_s=0.002)[0]}, **IMPATIENT) as server:
        yield server


@contextlib.contextmanager
def connected(
    server: LiveServer, receive_bytes: int | None = None, source: str = "127.0.0.1"
) -> Iterator[socket.socket]:
    with socket.socket() as client:
        client.bind((source, 0))
        if receive_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(10)
        client.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
        yield client


def request(body: Any, path: str = "/sample", headers: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"{head}{headers}\r\n".encode() + content


def rest(client: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(2**16):
            received += data
    return received


def answer(client: socket.socket) -> bytes:
    """One answer, whose length its headers tell."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(2**16)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(2**16)
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n", b"POST /sam", b"POST /sample HTTP/1.1\r\nHost: x\r\nX-A: b"])
def test_half_a_head_is_waited_for_no_longer_than_it_may_take(impatient: LiveServer, sent: bytes) -> None:
    with connected(impatient) as client:
        client.sendall(sent)
        began = time.monotonic()
        assert rest(client) == b""
        assert time.monotonic() - began >= 0.3


def test_a_head_that_trickles_is_late_all_the_same(impatient: LiveServer) -> None:
    with connected(impatient) as client, pytest.raises(ConnectionError):
        client.sendall(b"GET /health HTTP/1.1\r\n")
        for number in range(1000):
            client.sendall(b"X-%d: y\r\n" % number)
            time.sleep(0.02)


@pytest.mark.parametrize("trickles", [False, True])
def test_a_late_body_is_answered_408(impatient: LiveServer, trickles: bool) -> None:
    whole = request({"prompt": "w1 " * 200, **SMALL})
    with connected(impatient) as client:
        client.sendall(whole[:200])
        with contextlib.suppress(ConnectionError):
            for byte in whole[200:240] if trickles else b"":
                client.sendall(bytes([byte]))
                time.sleep(0.03)
        received = rest(client)
    assert received.startswith(b"HTTP/1.1 408 ") and b"connection: close" in received.lower()
    error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
    assert (error["code"], error["type"]) == (408, "timeout")
    assert error["message"] == "the body must be here within 0.6 s of its headers"


def test_the_time_of_a_body_is_not_that_of_its_request(impatient: LiveServer) -> None:
    whole = request({**SMALL, "timeout_s": 0.3})
    with connected(impatient) as client:
        client.sendall(whole[:-3])
        time.sleep(0.4)
        client.sendall(whole[-3:])
        assert answer(client).startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_is_kept_for_its_time(impatient: LiveServer) -> None:
    with connected(impatient) as client:
        for _ in range(3):  # each begins it anew
            client.sendall(request(SMALL))
            assert answer(client).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.2)
        client.sendall(b"\r\n")  # which is no request
        assert rest(client) == b""


def test_a_reader_that_never_reads_is_left_and_its_rows_are_freed(impatient: LiveServer) -> None:
    with connected(impatient, receive_bytes=4096) as client:
        client.sendall(request(LOUD))
        wait_until(lambda: impatient.engine.jobs.rows == 16)
        wait_until(lambda: impatient.engine.jobs.rows == 0)
        assert b"event: done" not in rest(client)


def test_an_answer_that_nobody_takes_is_left_too(impatient: LiveServer) -> None:
    body = {**LOUD, "num_inference_steps": 3, "stream": False}
    with connected(impatient, receive_bytes=4096) as client:
        for _ in range(40):  # more than the kernel holds, and each is done before the next
            client.sendall(request(body))
        wait_until(lambda: not impatient.process.server_state.connections)


def test_a_slow_reader_is_not_left(impatient: LiveServer) -> None:
    with connected(impatient, receive_bytes=4096) as client:
        client.sendall(request(LOUD | {"timeout_s": 3}, headers="Connection: close\r\n"))
        began, received = time.monotonic(), 0
        while time.monotonic() - began < 2.5:  # three times as long as one that takes nothing may
            received += len(client.recv(4096))
            time.sleep(0.1)
        tail = rest(client)
    assert received < 200_000 and tail.rstrip().endswith(b"0") and b"event: error" in tail


def test_pipelined_requests_are_answered_in_turn(impatient: LiveServer) -> None:
    with connected(impatient) as client:
        client.sendall(
            request({**SMALL, "seed": 1}) + request({**SMALL, "seq_len": 0}) + request({**SMALL, "seed": 3})
        )
        received = rest(client)
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"422", b"200"]


def test_what_is_sent_ahead_is_read_when_its_turn_comes(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"])
    denoiser.gate.clear()
    one, num = b"GET /health HTTP/1.1\r\n\r\n", 4000
    with serving({"absorbing": checkpoint}) as server, connected(server) as client:
        client.sendall(request(SMALL) + num * one)
        wait_until(lambda: denoiser.calls == 1)
        assert server.get("/ready").status_code == 200
        connections: Any = server.process.server_state.connections
        [connection] = [each for each in connections if each.pipeline]
        assert len(connection.pipeline) <= PIECE_BYTES // len(one) + 1
        denoiser.gate.set()
        received, healthy = b"", b'{"status":"ok"}'
        while not received.endswith(healthy) or received.count(healthy) < num:
            received += (data := client.recv(2**20))
            assert data, received[-300:]
        client.sendall(one)
        assert answer(client).startswith(b"HTTP/1.1 200 OK"), "and it is read on"


@pytest.mark.parametrize("at_once", [True, False])
def test_an_offer_to_speak_another_protocol_is_passed_over(impatient: LiveServer, at_once: bool) -> None:
    offer = "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\n"
    sent = request(SMALL, headers=offer)
    with connected(impatient) as client:
        for piece in [sent] if at_once else [sent[:30], sent[30:-5], sent[-5:]]:
            client.sendall(piece)
            time.sleep(0.02)
        first = answer(client)
        assert first.startswith(b"HTTP/1.1 200 OK") and b'"samples"' in first, first
        client.sendall(f"GET /health HTTP/1.1\r\nHost: x\r\n{offer}\r\n".encode())
        assert answer(client).startswith(b"HTTP/1.1 200 OK")


def test_zeros_before_the_length_of_a_body_change_nothing(impatient: LiveServer) -> None:
    for length, status in [("2", b"200"), ("99999999", b"413")]:
        with connected(impatient) as client:
            head = "POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
            client.sendall(f"{head}Content-Length: {5000 * '0'}{length}\r\n\r\n{{}}".encode())
            assert rest(client)[9:12] == status


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"HELO\r\n\r\n"]
)
def test_what_is_not_http_is_told_so(impatient: LiveServer, sent: bytes) -> None:
    with connected(impatient) as client:
        client.sendall(sent)
        received = rest(client)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request"


@pytest.mark.parametrize(
    "sent",
    [b"GET /" + b"x" * 10**6, b"GET / HTTP/1.1\r\nX: " + b"y" * 10**6, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10**5],
)
def test_a_head_has_a_largest_size(impatient: LiveServer, sent: bytes) -> None:
    with connected(impatient) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        received = rest(client)
    assert received == b"" or received.startswith(b"HTTP/1.1 431 ")  # a reset may overtake the answer


def test_the_largest_head_is_read(impatient: LiveServer) -> None:
    with connected(impatient) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nX: " + b"y" * (MAX_HEADER_BYTES - 100) + b"\r\n\r\n")
        assert answer(client).startswith(b"HTTP/1.1 200 ")


def test_chunks_and_trailers_without_end_are_cut_off(impatient: LiveServer) -> None:
    head = b"POST /sample HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(impatient) as client, pytest.raises(ConnectionError):
        client.sendall(head + b"2\r\n{}\r\n0\r\n")
        for _ in range(1000):
            client.sendall(b"X: y\r\n" * 1000)


def test_one_connection_too_many_ends_the_oldest_that_waits(tiny: Mapping[str, Checkpoint]) -> None:
    with (
        serving({"uniform": faked(tiny["uniform"])[0]}, max_connections=4) as server,
        contextlib.ExitStack() as stack,
    ):
        idle, *silent = [stack.enter_context(connected(server)) for _ in range(4)]
        idle.sendall(request(SMALL))
        answer(idle)
        wait_until(lambda: len(server.process.server_state.connections) == 4)
        assert server.post("/sample", SMALL).status_code == 200
        assert rest(idle) == b""
        assert server.get("/health").status_code == 200  # there was room again
        for client in silent:
            client.sendall(request(SMALL))
            assert answer(client).startswith(b"HTTP/1.1 200 ")


def test_when_all_are_at_work_only_the_probes_are_answered(tiny: Mapping[str, Checkpoint]) -> None:
    with (
        serving({"uniform": faked(tiny["uniform"], delay_s=0.005)[0]}, max_connections=2, **DEAR) as server,
        contextlib.ExitStack() as stack,
    ):
        streams = [stack.enter_context(server.reading("/sample", {**LOUD, "num_samples": 1})) for _ in range(2)]
        assert [next(events).event for events in streams] == ["start", "start"]
        for _ in range(3):
            assert server.get("/health").status_code == server.get("/ready").status_code == 200
            refused = server.post("/sample", SMALL)
            assert (refused.status_code, refused.headers["connection"]) == (503, "close")
            assert refused.json()["error"]["message"] == "there are too many connections"
            assert "retry-after" in refused.headers and "x-request-id" in refused.headers
        assert [next(events).event for events in streams] == ["state", "state"]
        stack.close()
        wait_until(lambda: not server.process.server_state.connections)
        assert server.post("/sample", SMALL).status_code == 200


@pytest.mark.parametrize("trusted", [[], ["127.0.0.2"]])
def test_one_client_takes_half_of_the_connections_and_a_trusted_proxy_all(
    tiny: Mapping[str, Checkpoint], trusted: list[str]
) -> None:
    checkpoint, denoiser = faked(tiny["uniform"])
    denoiser.gate.clear()
    with (
        serving({"uniform": checkpoint}, max_connections=24, trusted_proxies=trusted, **DEAR) as server,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(denoiser.gate.set)
        taken = []
        for _ in range(20):
            client = stack.enter_context(connected(server, source="127.0.0.2"))
            client.sendall(request({**SMALL, "stream": True}))
            taken.append(client.recv(12)[9:])
        assert taken.count(b"200") == (20 if trusted else 12) and set(taken) <= {b"200", b"503"}
        with connected(server) as other:
            other.sendall(request({**SMALL, "stream": True}))
            assert other.recv(12)[9:] == b"200"
            assert server.get("/ready").status_code == 200


def test_who_opens_many_connections_closes_its_own(tiny: Mapping[str, Checkpoint]) -> None:
    with (
        serving({"uniform": faked(tiny["uniform"])[0]}, max_connections=24) as server,
        contextlib.ExitStack() as stack,
    ):
        idle = stack.enter_context(connected(server))
        idle.sendall(request(SMALL))
        answer(idle)
        for _ in range(40):
            stack.enter_context(connected(server, source="127.0.0.2"))
        connections = server.process.server_state.connections
        wait_until(lambda: len(connections) == 12)
        idle.sendall(request(SMALL))
        assert answer(idle).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("descriptors", [128, 256, 1024, 20_000, 2**20, -1])
def test_descriptors_never_run_out(descriptors: int) -> None:
    at_once, most = accepted(descriptors)
    assert at_once >= 1 and most >= 32
    if descriptors > 0:
        assert most + 4 * at_once + 64 <= descriptors
        assert most >= min(descriptors, 2**16) // 4


def test_what_comes_a_thousand_times_a_second_is_logged_once() -> None:
    seldom = Seldom(60.0)
    records = [
        logging.LogRecord("asyncio", logging.ERROR, "", 0, text, (), None)
        for text in ["socket.accept() out of system resource\nsocket: x"] * 3 + ["something else"] * 2
    ]
    assert [seldom.filter(record) for record in records] == [True, False, False, True, True]


def test_httpx_keeps_its_connection(impatient: LiveServer) -> None:
    with httpx2.Client() as client:
        for _ in range(5):
            assert client.post(impatient.url + "/sample", json=SMALL).status_code == 200
        assert len(impatient.process.server_state.connections) == 1
