"""A soak of seconds against the tiny models, and whether it would see what it looks for."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from benchmarks.serving.process import serving
from benchmarks.serving.soak import Result, run, verdict
from benchmarks.serving.traffic import Ask
from benchmarks.serving.visitors import Log, Visitors

pytest_plugins = ["tests.server_fixtures"]

BODY = {"seq_len": 2, "num_inference_steps": 2}
START = {
    "id": "1",
    "model": "m",
    "process": "absorbing",
    "seed": 0,
    "seq_len": 2,
    "num_inference_steps": 2,
    "tokens": [[4, 4]],
}
DONE = {
    "samples": [{"text": "", "tokens": [5, 6]}],
    "step_map": [[1, 2]],
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 0, "completion_tokens": 2, "nfe": 2, "forwards_skipped": 0},
    "timings": {"queue_ms": 0.0, "first_state_ms": 1.0, "total_ms": 2.0},
}
ERROR = {"error": {"message": "m", "type": "internal", "param": None, "code": 500}}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a process is read from /proc")
def test_a_short_soak_passes(tiny_folders: Mapping[str, Path]) -> None:
    flags = ["--num_threads", "1", "--max_outstanding_s", "1"]
    result = run(dict(tiny_folders), flags, 8.0, seed=0, sample_s=0.5, most_tokens=64, most_steps=16)
    assert verdict(result, most_mb_per_hour=1e9) == []
    counts = result.log.counts
    kinds = ("read", "read slowly", "left in the middle", "nonsense", "crowds", "rejected", "without a stream")
    assert all(counts[kind] > 0 for kind in kinds), counts
    assert len(result.memory) > 5
    assert all(mb > 50 for _, mb in result.memory)
    assert result.golden > 0
    assert result.exit_code == 0


def test_a_server_that_does_not_start_tells_why() -> None:
    with (
        pytest.raises(RuntimeError, match=r"did not start:\n.*No module named server\.nowhere"),
        serving("server.nowhere", []),
    ):
        pass


def visit(events: list[tuple[str, Any]], status: int = 200) -> tuple[Log, Any]:
    """A reader's visit to a server that answers with these events: its log, and the tokens that it got."""
    stream = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    response = httpx2.Response(status, text=stream, headers={"Content-Type": "text/event-stream"})

    async def go() -> tuple[Log, Any]:
        async with httpx2.AsyncClient(
            transport=httpx2.MockTransport(lambda _: response), base_url="http://x"
        ) as client:
            visitors = Visitors(client, lambda: Ask("/sample", BODY), Log(), random.Random(0))
            return visitors.log, await visitors.read(Ask("/sample", BODY))

    return asyncio.run(go())


def state(*changes: tuple[int, int, int]) -> tuple[str, Any]:
    return "state", {"step": 1, "t": 0.5, "nfe": 1, "changes": changes}


def test_a_whole_stream_is_no_fault() -> None:
    log, tokens = visit([("start", START), state((0, 0, 5)), state((0, 1, 6)), ("done", DONE)])
    assert (log.faults, tokens, log.counts["read"]) == ([], [[5, 6]], 1)


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ([("start", START), state((0, 0, 5))], "ended without done or error"),
        ([], "ended without done or error"),
        ([("start", START), state((0, 0, 5)), ("done", DONE)], "do not lead to done's tokens"),
        ([("start", START), ("error", ERROR)], "internal"),
        ([("start", START), ("state", {"step": 1})], "InvalidEvent"),
        ([("start", START), state((0, 2, 5)), ("done", DONE)], "InvalidEvent"),
    ],
)
def test_a_stream_that_is_not_whole_is_a_fault(events: list[tuple[str, Any]], fault: str) -> None:
    log, _ = visit(events)
    assert len(log.faults) == 1
    assert fault in log.faults[0]


def test_the_verdict_sees_memory_health_and_changed_answers() -> None:
    growing = Result(memory=[(float(second), 100 + second / 60) for second in range(3600)])
    assert growing.slope_mb_per_hour == pytest.approx(60, abs=0.1)
    assert verdict(growing, 100) == []
    assert verdict(growing, 20) == ["memory grows by 60.0 MB/hour, more than 20"]
    assert Result(memory=growing.memory[:180]).slope_mb_per_hour == 0, "too short to tell"
    levelled = Result(memory=[(float(second), min(100 + second, 500.0)) for second in range(3600)])
    assert levelled.slope_mb_per_hour == pytest.approx(0)
    sawtooth = Result(memory=[(float(second), 500 + second % 60 + second // 900 * 40) for second in range(3600)])
    assert (sawtooth.floor[0], len(sawtooth.floor)) == (500, 60) and sawtooth.quarters == [500, 540, 580, 620]
    assert verdict(sawtooth, 20) == ["memory grows by 160.0 MB/hour, more than 20"]
    assert verdict(Result(log=Log(health_s=[0.01, 5.0])), 20) == ["/health once took 5.0 s"]
    assert verdict(Result(golden=1000, changed=5), 20) == []
    assert verdict(Result(golden=1000, changed=50), 20) == ["50 of 1000 answers differ from those given alone"]


def test_the_verdict_counts_more_faults_than_it_keeps() -> None:
    log = Log()
    for index in range(25):
        log.fault(f"fault {index}")
    assert verdict(Result(log=log), 20)[-1] == "5 more faults"
