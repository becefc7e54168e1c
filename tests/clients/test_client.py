"""What the client sends, and what it makes of answers that are no streams."""

from __future__ import annotations

import httpx2
import pytest

from tests.clients.scripted_server import DONE, Reply, answer, closed_port, envelope, scripted, sse
from token_diffusion_client import Client, DoneEvent, InvalidEvent, SampleError

pytest_plugins = ["tests.clients.both"]


def test_an_answer_without_a_stream_is_the_done_event(connect: type[Client]) -> None:
    with scripted(sample=answer(DONE)) as server, connect(server.url) as client:
        done = client.sample("the", num_samples=2, top_p=0.9, seed=0, model=None)
    assert isinstance(done, DoneEvent)
    assert done.samples[1].tokens == [14, 15, 18, 12]
    (request,) = server.requests
    assert (request.method, request.path, request.authorization) == ("POST", "/sample", None)
    assert request.body == {"prompt": "the", "num_samples": 2, "top_p": 0.9, "seed": 0, "stream": False}


@pytest.mark.parametrize(
    ("path", "unstreamed", "streamed"),
    [
        ("/sample", "sample", "stream_sample"),
        ("/sample/block", "sample_block", "stream_block"),
        ("/sample/hybrid", "sample_hybrid", "stream_hybrid"),
    ],
)
def test_each_method_asks_its_endpoint(connect: type[Client], path: str, unstreamed: str, streamed: str) -> None:
    name = path[1:].replace("/", "_")
    with scripted(**{name: answer(DONE)}) as server, connect(server.url) as client:
        done = getattr(client, unstreamed)(seq_len=4)
    with scripted(**{name: Reply([sse()])}) as streaming, connect(streaming.url) as client:
        *_, last = getattr(client, streamed)(seq_len=4)
    assert done == last
    assert [request.path for request in server.requests + streaming.requests] == [path, path]
    assert server.requests[0].body == {"seq_len": 4, "stream": False}
    assert streaming.requests[0].body == {"seq_len": 4, "stream": True, "on_disconnect": "keep"}


def test_no_steps_is_a_value_of_its_own(connect: type[Client]) -> None:
    with scripted(sample=answer(DONE)) as server, connect(server.url) as client:
        client.sample(num_inference_steps=None)
        client.sample()
    assert [request.body for request in server.requests] == [
        {"num_inference_steps": None, "stream": False},
        {"stream": False},
    ]


def test_the_request_is_sent_with_the_first_event(connect: type[Client]) -> None:
    with scripted(sample=Reply([sse()])) as server, connect(server.url) as client:
        events = client.stream_sample()
        assert server.requests == []
        next(events)
        assert len(server.requests) == 1
        events.close()


def test_the_key_goes_along(connect: type[Client]) -> None:
    replies = {"sample": answer(DONE), "models": answer({"models": []})}
    with scripted(**replies) as server, connect(server.url, api_key="s3cret") as client:
        client.sample()
        client.models()
    assert [request.authorization for request in server.requests] == ["Bearer s3cret"] * 2


@pytest.mark.parametrize(("key", "place"), [("s3cret\n", r"'\\n' at character 6"), ("clé", "'é' at character 2")])
def test_a_key_that_no_header_can_carry_is_not_told(connect: type[Client], key: str, place: str) -> None:
    with pytest.raises(ValueError, match=f"^api_key must be printable ASCII, got {place}$"):
        connect("http://127.0.0.1:1", api_key=key)


@pytest.mark.parametrize("status", [302, 307])
def test_a_key_goes_nowhere_else(connect: type[Client], status: int) -> None:
    with scripted(sample=answer(DONE)) as other:
        moved = Reply([], status=status, headers={"Location": f"{other.url}/sample"})
        with scripted(sample=moved) as server, connect(server.url, api_key="s3cret") as client:
            for asked in (client.sample, lambda: list(client.stream_sample())):
                with pytest.raises(SampleError, match=f"^HTTP {status} .* from {server.url}/sample$"):
                    asked()
        assert other.requests == []


def test_a_url_may_have_a_path(connect: type[Client]) -> None:
    with scripted(behind_proxy_sample=answer(DONE)) as server, connect(server.url + "/behind/proxy") as client:
        client.sample()
    assert server.requests[0].path == "/behind/proxy/sample"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_keeps_the_fields_of_its_envelope(connect: type[Client], streamed: bool) -> None:
    reply = answer(envelope(), 422)
    with scripted(sample=reply) as server, connect(server.url) as client, pytest.raises(SampleError) as raised:
        list(client.stream_sample()) if streamed else client.sample()
    error = raised.value
    assert str(error) == error.message == "top_p must be in (0, 1], got 1.5"
    assert (error.type, error.param, error.code) == ("invalid_request", "top_p", 422)


def test_the_status_stands_in_for_a_missing_code(connect: type[Client]) -> None:
    reply = answer(envelope(None), 429)
    with (
        scripted(sample=reply) as server,
        connect(server.url, max_retries=0) as client,
        pytest.raises(SampleError) as raised,
    ):
        client.sample()
    assert raised.value.code == 429


@pytest.mark.parametrize("body", [b"<h1>Bad Gateway</h1>", b"[]", b'{"detail": "no"}', b'{"error": "no"}'])
def test_an_error_in_other_words_is_told_by_its_status(connect: type[Client], body: bytes) -> None:
    reply = Reply([body], status=502, content_type="text/html")
    with scripted(sample=reply) as server, connect(server.url) as client, pytest.raises(SampleError) as raised:
        list(client.stream_sample())
    assert str(raised.value) == f"HTTP 502 Bad Gateway from {server.url}/sample"
    assert (raised.value.type, raised.value.code) == ("http_error", 502)


def test_a_good_status_with_another_body_is_no_answer(connect: type[Client]) -> None:
    reply = Reply([b"<h1>It works!</h1>"], content_type="text/html")
    with scripted(sample=reply, info=reply) as server, connect(server.url) as client:
        with pytest.raises(InvalidEvent, match="done must be JSON, got '<h1>It works!</h1>'"):
            client.sample()
        with pytest.raises(InvalidEvent, match="/info must be JSON"):
            client.info()
        with pytest.raises(httpx2.SSEError, match="text/html"):
            list(client.stream_sample())


def test_the_other_endpoints(connect: type[Client]) -> None:
    models, info = {"models": [{"name": "demo"}]}, {"version": "0.1.0"}
    replies = {"models": answer(models), "info": answer(info)}
    probes = {"health": answer({"status": "ok"}), "ready": answer(envelope(503), 503)}
    with scripted(**replies, **probes) as server, connect(server.url) as client:
        assert client.models() == models
        assert client.info() == info
        assert client.health() is True
        assert client.ready() is False


def test_an_absent_server_is_a_transport_error(connect: type[Client]) -> None:
    with connect(f"http://127.0.0.1:{closed_port()}") as client, pytest.raises(httpx2.ConnectError):
        client.health()


def test_a_silent_server_is_given_up(connect: type[Client]) -> None:
    with scripted(sample=Reply([], "hold")) as server, connect(server.url, timeout=0.05) as client:
        with pytest.raises(httpx2.ReadTimeout):
            list(client.stream_sample())
        assert server.client_left.wait(5)
