"""A busy server is asked again, when it says so and not for ever; what has begun is never sent twice."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.scripted_server import DONE, EVENTS, Reply, answer, envelope, scripted, sse
from token_diffusion_client import Client, DoneEvent, SampleError

pytest_plugins = ["tests.clients.both"]


def busy(status: int, then: Reply | None = None, retry_after: str | None = None) -> Reply:
    reply = answer(envelope(status), status)
    reply.headers = {} if retry_after is None else {"Retry-After": retry_after}
    reply.then = then
    return reply


CALLS: list[tuple[str, Callable[[Any], Any], Reply]] = [
    ("sample", lambda client: client.sample(seed=1), answer(DONE)),
    ("sample", lambda client: list(client.stream_sample(seed=1))[-1], Reply([sse()])),
    ("models", lambda client: client.models(), answer({"models": []})),
]


@pytest.mark.parametrize(("name", "call", "good"), CALLS, ids=["plain", "stream", "get"])
def test_it_comes_again_when_it_is_told_to(
    connect: type[Client], pauses: list[float], name: str, call: Callable[[Any], Any], good: Reply
) -> None:
    reply = busy(429, busy(503, good, retry_after="0.25"), retry_after="7")
    with scripted(**{name: reply}) as server, connect(server.url) as client:
        call(client)
        bodies = [request.body for request in server.requests]
    assert pauses == [7, 0.25]
    assert len(bodies) == 3 and bodies[0] == bodies[1] == bodies[2]


def test_without_a_word_the_pauses_grow(connect: type[Client], pauses: list[float]) -> None:
    with scripted(sample=busy(503)) as server, connect(server.url, max_retries=3) as client:
        with pytest.raises(SampleError) as raised:
            client.sample()
        assert len(server.requests) == 4
    assert raised.value.code == 503
    assert [0.5 * 2**tried * 0.5 <= pause <= 0.5 * 2**tried * 1.5 for tried, pause in enumerate(pauses)] == [True] * 3


def test_a_wait_that_would_be_too_long_is_not_begun(connect: type[Client], pauses: list[float]) -> None:
    with scripted(sample=busy(429, retry_after="25")) as server, connect(server.url, max_wait_s=60) as client:
        with pytest.raises(SampleError) as raised:
            client.sample()
        assert len(server.requests) == 3
    assert pauses == [25, 25]
    assert raised.value.retry_after_s == 25


def test_a_date_is_a_time_to_come_again(connect: type[Client], pauses: list[float]) -> None:
    at = email.utils.formatdate(time.time() + 20, usegmt=True)
    with scripted(sample=busy(429, answer(DONE), at)) as server, connect(server.url) as client:
        client.sample()
    assert len(pauses) == 1 and 15 < pauses[0] <= 20


@pytest.mark.parametrize("said", ["soon", "-5", "inf", "nan", "Wed, 99 Foo 2026"])
def test_what_cannot_be_read_is_not_waited_for(connect: type[Client], pauses: list[float], said: str) -> None:
    with scripted(sample=busy(429, answer(DONE), said)) as server, connect(server.url) as client:
        client.sample()
    assert len(pauses) == 1 and 0 < pauses[0] < 1


def test_it_can_be_told_not_to(connect: type[Client], pauses: list[float]) -> None:
    with scripted(sample=busy(429, answer(DONE), "1")) as server, connect(server.url, max_retries=0) as client:
        with pytest.raises(SampleError) as raised:
            client.sample()
        assert len(server.requests) == 1
    assert (pauses, raised.value.retry_after_s) == ([], 1)


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500, 504])
def test_other_refusals_are_final(connect: type[Client], pauses: list[float], status: int) -> None:
    with scripted(sample=busy(status, answer(DONE), "1")) as server, connect(server.url) as client:
        with pytest.raises(SampleError) as raised:
            client.sample()
        assert (len(server.requests), raised.value.code) == (1, status)
    assert pauses == []


def test_a_stream_that_has_begun_is_not_sent_again(connect: type[Client], pauses: list[float]) -> None:
    error = {"error": {"message": "the server is stopping", "type": "shutdown", "param": None, "code": 503}}
    with scripted(sample=Reply([sse([*EVENTS[:2], ("error", error)])])) as server, connect(server.url) as client:
        with pytest.raises(SampleError, match="the server is stopping"):
            list(client.stream_sample())
        assert len(server.requests) == 1
    assert pauses == []


def test_the_probes_tell_what_is_now(connect: type[Client], pauses: list[float]) -> None:
    with scripted(ready=busy(503, answer(DONE), "1")) as server, connect(server.url) as client:
        assert client.ready() is False
    assert pauses == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_retries": -1}, "max_retries must be >= 0, got -1"),
        ({"max_wait_s": -0.5}, "max_wait_s must be >= 0, got -0.5"),
        ({"max_wait_s": float("nan")}, "max_wait_s must be >= 0, got nan"),
    ],
)
def test_settings_that_make_no_sense(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Client(**setting)


def test_a_refusal_of_many_waits_for_itself_alone(connect: type[Client], pauses: list[float]) -> None:
    with scripted(sample=busy(429, Reply([sse()]), "3")) as server, connect(server.url) as client:
        results = client.sample_many(["a", "b"], max_concurrency=1)
    assert [isinstance(result.get(), DoneEvent) for result in results] == [True, True]
    assert pauses == [3]
