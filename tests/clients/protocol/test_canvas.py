"""Start and changes, replayed, are the samples of done."""

from __future__ import annotations

import dataclasses

import pytest

from tests.clients.protocol.test_wire import stream
from tests.clients.scripted_server import sse
from token_diffusion_client import Canvas, Client, DoneEvent, InvalidEvent, StartEvent, StateEvent


def test_replaying_gives_the_tokens_of_done() -> None:
    start, *events, done = stream(Client, sse())
    assert isinstance(start, StartEvent)
    assert isinstance(done, DoneEvent)
    canvas = Canvas(start)
    assert (canvas.step, canvas.t, canvas.nfe, canvas.text) == (0, 1.0, 0, None)
    seen = []
    for event in events:
        canvas.apply(event)
        seen.append([list(sample) for sample in canvas.tokens])
    assert seen[0] == [[5, 11, 0, 0], [0, 0, 0, 12]]
    assert seen[1] == [[5, 11, 13, 0], [14, 15, 0, 12]]
    assert canvas.tokens == [sample.tokens for sample in done.samples]
    assert (canvas.step, canvas.t, canvas.nfe) == (8, 0.0, 3)


def test_text_is_the_last_that_the_server_sent() -> None:
    start, first, second, *_, done = stream(Client, sse())
    assert isinstance(start, StartEvent)
    canvas = Canvas(start)
    canvas.apply(first)
    assert canvas.text == ["the cät ░", "[MASK]"]
    canvas.apply(second)
    assert canvas.text == ["the cät ░", "[MASK]"]
    canvas.apply(done)
    assert canvas.text == ["the dög sat", "über"]


def test_the_start_event_is_left_as_it_was() -> None:
    start, first, *_ = stream(Client, sse())
    assert isinstance(start, StartEvent)
    before = dataclasses.asdict(start)
    Canvas(start).apply(first)
    assert dataclasses.asdict(start) == before


def test_a_keyframe_is_the_whole_state() -> None:
    canvas = Canvas(StartEvent("id", "demo", "uniform", 0, 3, 8, [[1, 2, 3]]))
    keyframe = [[7, 8, 9]]
    canvas.apply(StateEvent(step=4, t=0.5, nfe=4, changes=[(0, 2, 9)], keyframe=keyframe))
    canvas.apply(StateEvent(step=5, t=0.4, nfe=5, changes=[(0, 0, 6)]))
    assert canvas.tokens == [[6, 8, 9]] and keyframe == [[7, 8, 9]]


def test_logprobs_are_those_of_the_last_token_and_in_the_end_those_of_done() -> None:
    start = StartEvent("id", "demo", "absorbing", 0, 3, 8, [[0, 0, 0]])
    canvas = Canvas(start)
    canvas.apply(StateEvent(1, 0.5, 1, [(0, 0, 7), (0, 1, 8)], logprobs=[-0.5, None]))
    assert canvas.logprobs == [[-0.5, None, None]]
    canvas.apply(StateEvent(2, 0.4, 2, [(0, 0, 0)], keyframe=[[0, 8, 9]]))
    assert canvas.logprobs == [[None, None, None]]
    *_, done = stream(Client, sse())
    assert isinstance(done, DoneEvent) and done.logprobs is None
    canvas.apply(dataclasses.replace(done, logprobs=[[-0.1, None, -2.0]]))
    assert canvas.logprobs == [[-0.1, None, -2.0]]
    with pytest.raises(InvalidEvent, match=r"^done\.logprobs must have the shape of the tokens$"):
        canvas.apply(dataclasses.replace(done, logprobs=[[-0.1]]))
    with pytest.raises(InvalidEvent, match=r"^state\.logprobs must be one for each of 1 changes, got 2$"):
        canvas.apply(StateEvent(3, 0.4, 2, [(0, 0, 7)], logprobs=[-0.5, -0.5]))


@pytest.mark.parametrize("change", [(2, 0, 1), (0, 4, 1), (-1, 0, 1), (0, -1, 1)])
def test_a_change_outside_is_refused(change: tuple[int, int, int]) -> None:
    start = StartEvent("id", "demo", "uniform", 0, 4, 8, [[1, 2, 3, 4], [5, 6, 7, 8]])
    with pytest.raises(InvalidEvent, match=r"must be inside \[2, 4\], got \[" + ", ".join(map(str, change))):
        Canvas(start).apply(StateEvent(step=1, t=0.5, nfe=1, changes=[change]))
