"""Crowds: they come from addresses of their own, come again when they are told to, and are counted right."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from benchmarks.serving.crowd import Crowd, Visit
from benchmarks.serving.overload import drained, makespan
from tests.live_server import faked, serving, wait_until
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

BODY = {"seq_len": 8, "num_inference_steps": 8}


def test_a_crowd_is_served_though_it_is_refused(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.03)
    with serving({"absorbing": checkpoint}, max_outstanding_work=4 * 64) as server:

        async def come() -> list[Visit]:
            crowd = Crowd(server.url)
            visits = await asyncio.gather(*(crowd.visit(1, "/sample", BODY) for _ in range(6)))
            greedy = asyncio.create_task(crowd.again(2, "/sample", BODY | {"seq_len": 64}))
            await asyncio.to_thread(wait_until, lambda: len(server.engine.jobs.all) == 1)
            (job,) = server.engine.jobs.all
            assert job.owner.name == "127.0.0.2"
            greedy.cancel()
            await asyncio.gather(greedy, return_exceptions=True)
            await crowd.close()
            return visits

        visits = asyncio.run(come())
    assert [visit.status for visit in visits] == [200] * 6
    refused = [visit for visit in visits if visit.refused]
    assert refused and all(wait >= 1 for visit in refused for _, wait in visit.refused)
    assert max(visit.seconds for visit in visits) >= 1


def test_the_arithmetic_of_a_crowd() -> None:
    visits = [Visit(10.0, 10.0 + second, 200) for second in range(1, 11)]
    visits[8].refused = [(10.5, 3.0)]
    assert makespan(visits) == 10
    assert drained(visits, 4) == [(3.0, pytest.approx(3.5))]
