"""Many requests: results in order, errors with their place, never too many at once, and nothing left running."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.clients.scripted_server import DONE, EVENTS, Reply, answer, envelope, scripted, sse
from tests.live_server import LiveServer, faked, serving, wait_until
from token_diffusion.checkpoint import Checkpoint
from token_diffusion_client import (
    Client,
    DoneEvent,
    IncompleteStream,
    Result,
    SampleError,
    SampleRequest,
    Timings,
    Usage,
)
from token_diffusion_client.protocol.asking import Patience
from token_diffusion_client.protocol.effects import Finished, Spawn, Steps
from token_diffusion_client.protocol.many import results as results_of

pytest_plugins = ["tests.server_fixtures", "tests.clients.both"]


ANSWER = DoneEvent([], [], "length", Usage(0, 0, 0, 0), Timings(0, 0, 0))


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("many-")}


def test_each_gets_what_it_would_get_alone(connect: type[Client], live: LiveServer) -> None:
    requests: list[Any] = [
        {
            "prompt": "w3 w4",
            "seq_len": 12,
            "num_inference_steps": 8,
            "seed": seed,
            "num_samples": 2,
            "model": "absorbing",
        }
        for seed in range(6)
    ]
    requests[2] |= {"endpoint": "sample/block", "block_size": 4}
    requests[3] |= {"endpoint": "sample/hybrid", "model": "hybrid"}
    seen: list[Result] = []
    with connect(live.url) as client:
        results = client.sample_many(iter(requests), max_concurrency=3, progress=seen.append)
        alone = [client.sample(**request) for request in requests]
    assert [result.index for result in results] == list(range(6))
    assert [result.get().samples for result in results] == [done.samples for done in alone]
    assert sorted(seen, key=lambda result: result.index) == results


def test_errors_are_told_with_their_place_and_the_others_go_on(connect: type[Client], live: LiveServer) -> None:
    fine = {"seq_len": 8, "num_inference_steps": 4, "seed": 1, "model": "absorbing"}
    requests: list[Any] = [fine, fine | {"top_p": 7}, "\ud800", fine | {"endpoint": "nowhere"}, fine, 5]
    with connect(live.url) as client:
        results = client.sample_many(requests, max_concurrency=2)
    assert [result.error is None for result in results] == [True, False, False, False, True, False]
    assert results[0].get().samples == results[4].get().samples
    with pytest.raises(SampleError, match="top_p"):
        results[1].get()
    assert isinstance(results[2].error, ValueError) and "prompt must be valid Unicode" in str(results[2].error)
    assert isinstance(results[3].error, SampleError) and results[3].error.code == 404
    assert str(results[5].error) == "a request must be a prompt or a mapping of its fields, got 5"


def test_never_more_at_once_than_asked_for() -> None:
    """What cannot be sent takes no place, and a request is taken when there is one for it."""
    taken: list[int] = []
    told: list[Result] = []

    def requests() -> Iterator[Any]:
        for number, request in enumerate(["\ud800", 5, "a", "b", "c", "d"]):
            taken.append(number)
            yield request

    def tell(result: Result) -> Steps[None]:
        told.append(result)
        yield from ()

    steps = results_of(requests(), 2, Patience(), tell)
    spawned: list[int] = []
    effect = next(steps)
    for ends, done in ((3, None), (2, ANSWER), (4, None), (5, None)):
        while isinstance(effect, Spawn):
            spawned.append(effect.number)
            effect = next(steps)
        assert isinstance(effect, Finished)
        assert len(set(spawned) - {result.index for result in told}) <= 2 and taken[-1] == spawned[-1]
        with contextlib.suppress(StopIteration):
            effect = steps.send((ends, done, None if done else IncompleteStream("broken")))
    assert spawned == [2, 3, 4, 5] and taken == [0, 1, 2, 3, 4, 5]
    assert [result.index for result in told] == [0, 1, 3, 2, 4, 5]
    assert [result.done for result in told if result.error is None] == [ANSWER]


def test_results_come_as_they_end(connect: type[Client]) -> None:
    slow = Reply([sse(EVENTS[:1])], "hold")
    with scripted(sample=slow, sample_block=Reply([sse()])) as server, connect(server.url) as client:
        results = client.iter_many(
            [{"endpoint": "sample"}, {"endpoint": "sample/block"}, {"endpoint": "sample/block"}]
        )
        assert {next(results).index, next(results).index} == {1, 2}
        results.close()


def test_leaving_ends_what_runs(connect: type[Client], tiny: Mapping[str, Checkpoint]) -> None:
    before = workers()
    checkpoint, fake = faked(tiny["absorbing"], delay_s=0.02)
    with serving({"absorbing": checkpoint}) as server, connect(server.url) as client:
        long: SampleRequest = {"seq_len": 64, "num_inference_steps": 1000}
        results = client.iter_many([long, {"seq_len": 8, "num_inference_steps": 2}, long], max_concurrency=3)
        assert next(results).index == 1
        results.close()
        wait_until(lambda: server.engine.idle, timeout_s=3)
        assert fake.calls < 200
        wait_until(lambda: not workers() - before)


def test_nothing_to_do_is_done(connect: type[Client]) -> None:
    with scripted() as server, connect(server.url) as client:
        assert client.sample_many([]) == []
        with pytest.raises(ValueError, match=r"^max_concurrency must be >= 1, got 0$"):
            client.sample_many(["a"], max_concurrency=0)
        assert server.requests == []


def test_a_bar_counts_what_came_and_what_failed(connect: type[Client], capsys: pytest.CaptureFixture[str]) -> None:
    reply = answer(envelope(422), 422)
    reply.then = Reply([sse()])
    with scripted(sample=reply) as server, connect(server.url) as client:
        results = client.sample_many(["a", "b", "c"], max_concurrency=1, progress=True)
    assert [result.error is None for result in results] == [False, True, True]
    drawn = capsys.readouterr()
    assert drawn.out == "" and "3/3" in drawn.err and "1 SampleError" in drawn.err


def test_a_result_is_one_or_the_other() -> None:
    with scripted(sample=answer(DONE)) as server, Client(server.url) as client:
        assert Result(0, client.sample()).get().seed == 7
    with pytest.raises(ValueError, match="no"):
        Result(0, error=ValueError("no")).get()
