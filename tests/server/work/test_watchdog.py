"""How long a step may take, and what is told when it takes longer, or when all of them fail."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import server.work.watchdog
from server.app import create_app
from server.errors import APIError
from server.settings import Settings
from server.work.engine import WARM_UP
from server.work.watchdog import FIRST_S, LEAST_S, SLOWEST, Watchdog
from tests.live_server import FakeDenoiser, faked, serving, wait_until
from tests.server.work.test_engine import end_of, make_job, run, running
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

BODY = {"seq_len": 8, "num_inference_steps": 4, "stream": False}


def asked(checkpoint: Checkpoint, denoiser: Any) -> Checkpoint:
    return replace(checkpoint, denoiser=denoiser)


class Hanging(FakeDenoiser):
    """Waits to be let go, once it is told to wait."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        self.go_on.wait()
        return super().__call__(tokens, t, valid, positions)


def test_the_limit_follows_the_slowest_warm_step(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.03)

    async def main() -> None:
        with running(checkpoint) as engine:
            watchdog = Watchdog(engine)
            assert watchdog.limit_s == FIRST_S and Watchdog(engine, 7.0).limit_s == 7.0
            for calls in (WARM_UP, WARM_UP + 2):
                job = make_job(seq_len=8, steps=10**4)
                engine.submit(job)
                wait_until(lambda calls=calls: denoiser.calls >= calls)  # type: ignore[misc]
                engine.cancel(job)
                wait_until(lambda: engine.idle and engine.tick_began is None)
                if engine.ticks <= WARM_UP:
                    assert engine.slowest_tick_s == 0.0 and watchdog.limit_s == FIRST_S
            assert engine.slowest_tick_s >= 0.03 and engine.last_tick_s >= 0.03
            assert watchdog.limit_s == LEAST_S, "not less, however quick the steps are"
            engine.slowest_tick_s = LEAST_S
            assert watchdog.limit_s == SLOWEST * LEAST_S
            denoiser.delay_s = 0.3
            job = make_job(seq_len=90)
            engine.submit(job)
            wait_until(lambda: engine.stepping is not None)
            assert not engine.warm, "another class of lengths, another shape"
            engine.cancel(job)

    run(main)


def test_a_step_that_ends_after_all_is_forgiven(
    tiny: Mapping[str, Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    denoiser = Hanging(tiny["absorbing"].scheduler.config["vocab_size"])
    denoiser.go_on.clear()
    checkpoint = asked(tiny["absorbing"], denoiser)

    async def main() -> None:
        with running(checkpoint) as engine:
            watchdog = Watchdog(engine, 0.01)
            stepping, waiting = make_job(), make_job()
            engine.submit(stepping)
            wait_until(lambda: engine.tick_began is not None)
            Watchdog(engine, 60.0).check()
            engine.check_alive()
            engine.submit(waiting)
            time.sleep(0.02)
            watchdog.check()
            for job in (stepping, waiting):
                error = (await end_of(job)).error
                assert error is not None and "the engine has not finished a step for " in error.event.error.message
            with pytest.raises(APIError) as caught:
                engine.submit(make_job())
            assert caught.value.status_code == 503
            assert stepping.id in caplog.text and waiting.id not in caplog.text
            denoiser.go_on.set()
            wait_until(lambda: engine.idle and engine.tick_began is None)
            watchdog.check()
            again = make_job()
            engine.submit(again)
            assert (await end_of(again)).result is not None

    with caplog.at_level(logging.CRITICAL, logger="server.work"):
        run(main)


class Failing(FakeDenoiser):
    """Raises, or gives no numbers, as long as it is told to."""

    how: str | None = None

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        logits = super().__call__(tokens, t, valid, positions)
        if self.how == "raises":
            raise RuntimeError("no more")
        return logits * float("nan") if self.how == "nan" else logits


def failing(checkpoint: Checkpoint) -> tuple[Checkpoint, Failing]:
    denoiser = Failing(checkpoint.scheduler.config["vocab_size"])
    return asked(checkpoint, denoiser), denoiser


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_steps_that_all_fail_make_it_unready_until_one_succeeds(
    tiny: Mapping[str, Checkpoint], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="server.work")
    checkpoint, denoiser = failing(tiny["absorbing"])
    with serving({"absorbing": checkpoint}) as server:
        denoiser.how = how
        for code in (200, 200, 503):
            assert server.post("/sample", BODY).status_code == 500
            assert server.get("/ready").status_code == code
        assert "steps have failed" in server.get("/ready").json()["error"]["message"]
        assert server.get("/health").status_code == 200
        denoiser.how = None
        assert server.post("/sample", BODY).status_code == 200, "work is taken all the while"
        assert server.get("/ready").status_code == 200


def test_where_nobody_asks_it_finds_out_itself_that_steps_succeed_again(
    tiny: Mapping[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As behind a balancer that goes by /ready. It is the network that failed that is asked."""
    caplog.set_level(logging.CRITICAL + 1, logger="server.work")
    monkeypatch.setattr(server.work.watchdog, "PROBE_S", 0.05)
    sound, _ = faked(tiny["uniform"])
    broken, denoiser = failing(tiny["absorbing"])
    with serving({"uniform": sound, "absorbing": broken}) as live:
        denoiser.how = "raises"
        for _ in range(3):
            live.post("/sample", BODY | {"model": "absorbing"})
        calls = denoiser.calls
        wait_until(lambda: denoiser.calls >= calls + 2)
        assert live.get("/ready").status_code == 503
        denoiser.how = None
        wait_until(lambda: live.get("/ready").status_code == 200)
        wait_until(lambda: live.engine.idle)
        calls = denoiser.calls
        time.sleep(0.3)
        assert denoiser.calls == calls, "and asks no more"


def test_the_watchdog_ends_with_the_app(tiny_folders: Mapping[str, Path]) -> None:
    app = create_app(Settings(checkpoint_path=str(tiny_folders["absorbing"])))

    async def main() -> None:
        async with app.router.lifespan_context(app):
            assert len(asyncio.all_tasks()) == 2
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run(main)
