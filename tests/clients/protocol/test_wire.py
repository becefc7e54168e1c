"""The client against bytes on a real socket: every way to cut a stream into pieces."""

from __future__ import annotations

import json

import pytest

from tests.clients.scripted_server import DONE, EVENTS, Reply, scripted, sse
from token_diffusion_client import (
    BlockEvent,
    Client,
    DoneEvent,
    Event,
    IncompleteStream,
    SampleError,
    StartEvent,
    StateEvent,
)

pytest_plugins = ["tests.clients.both"]


def stream(connect: type[Client], *chunks: bytes, ending: str = "end") -> list[Event]:
    """What a client makes of a stream that comes in these chunks."""
    with scripted(sample=Reply(chunks, ending)) as server, connect(server.url) as client:
        return list(client.stream_sample())


def test_events_arrive_typed_and_in_order(connect: type[Client]) -> None:
    events = stream(connect, sse())
    assert [type(event) for event in events] == [StartEvent, *[StateEvent] * 3, BlockEvent, DoneEvent]
    start, first, block, done = events[0], events[1], events[4], events[5]
    assert start == StartEvent("smp-1", "demo", "absorbing", 7, 4, 8, [[5, 0, 0, 0], [0, 0, 0, 0]])
    assert first == StateEvent(2, 0.75, 1, [(0, 1, 11), (1, 3, 12)], ["the cät ░", "[MASK]"])
    assert block == BlockEvent(0, 1, 4)
    assert isinstance(done, DoneEvent)
    assert [sample.text for sample in done.samples] == ["the dög sat", "über"]
    assert (done.usage.forwards_skipped, done.timings.total_ms, done.seed) == (5, 9.25, 7)


@pytest.mark.parametrize(
    ("size", "newline"), [(1, "\n"), (1, "\r\n"), (1, "\r"), (2, "\r\n"), (3, "\r"), (7, "\r\n"), (64, "\n")]
)
def test_any_cut_and_any_line_ending_gives_the_same_events(connect: type[Client], size: int, newline: str) -> None:
    # At size 1 every character of several bytes, and every \r\n, is cut in two.
    data = sse(newline=newline)
    assert stream(connect, *(data[start : start + size] for start in range(0, len(data), size))) == stream(
        connect, sse()
    )


def test_comments_unknown_events_and_unknown_fields_are_ignored(connect: type[Client]) -> None:
    states = [(name, {**data, "from_the_future": {"x": 1}}) for name, data in EVENTS]
    data = sse([states[0], ("weather", ["not", "ours"]), *states[1:]])
    assert stream(
        connect, b": hello\n\n", b":\n", data.replace(b"id: 2\n", b": still there\nid: 2\nnonsense\n")
    ) == stream(connect, sse())


def test_data_of_several_lines_is_one_document(connect: type[Client]) -> None:
    lines = json.dumps(DONE, ensure_ascii=False, indent=2).splitlines()
    done = "event: done\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
    assert len(lines) > 10
    assert stream(connect, sse(EVENTS[:-1]), done.encode()) == stream(connect, sse())


def test_an_event_larger_than_a_megabyte_is_read(connect: type[Client]) -> None:
    text = "x" * 2**20
    *_, done = stream(connect, sse([("done", {**DONE, "samples": [{"text": text, "tokens": [1]}]})]))
    assert isinstance(done, DoneEvent)
    assert done.samples[0].text == text


@pytest.mark.parametrize("ending", ["end", "abort"])
def test_a_stream_without_done_is_incomplete(connect: type[Client], ending: str) -> None:
    received: list[Event] = []
    reply = Reply([sse(EVENTS[:3])], ending)
    message = "ended after a state event, without done or error"
    with (
        scripted(sample=reply) as server,
        connect(server.url) as client,
        pytest.raises(IncompleteStream, match=message),
    ):
        for event in client.stream_sample():
            received.append(event)
    assert len(received) == 3


def test_a_done_event_that_is_cut_off_is_incomplete(connect: type[Client]) -> None:
    with pytest.raises(IncompleteStream):
        stream(connect, sse()[:-1])


def test_an_empty_stream_is_incomplete(connect: type[Client]) -> None:
    with pytest.raises(IncompleteStream, match="before its first event"):
        stream(connect)


def test_a_connection_lost_after_done_is_no_error(connect: type[Client]) -> None:
    assert stream(connect, sse(), ending="abort") == stream(connect, sse())


def test_an_error_event_is_raised_after_the_events_before_it(connect: type[Client]) -> None:
    error = {"error": {"message": "not finished within 60 s", "type": "timeout", "param": "timeout_s", "code": 504}}
    received: list[Event] = []
    reply = Reply([sse([*EVENTS[:2], ("error", error)])])
    with scripted(sample=reply) as server, connect(server.url) as client, pytest.raises(SampleError) as raised:
        for event in client.stream_sample():
            received.append(event)
    assert len(received) == 2
    assert str(raised.value) == "not finished within 60 s"
    assert (raised.value.type, raised.value.param, raised.value.code) == ("timeout", "timeout_s", 504)


@pytest.mark.parametrize("by", ["break", "close", "client"])
def test_leaving_early_closes_the_connection(connect: type[Client], by: str) -> None:
    with scripted(sample=Reply([sse(EVENTS[:2])], "hold")) as server, connect(server.url) as client:
        if by == "break":
            for _ in client.stream_sample():
                break
        else:
            events = client.stream_sample()
            next(events)
            assert not server.client_left.wait(0.1)
            events.close() if by == "close" else client.close()
        assert server.client_left.wait(5)
