"""GET /metrics of a live server: what it has counted is what its answers say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx2
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from tests.live_server import LiveServer, done_of, faked, serving, wait_until
from token_diffusion import __version__
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

ENDLESS = {"seq_len": 96, "num_samples": 2, "num_inference_steps": 10_000, "model": "slow"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: LiveServer) -> Samples:
    """(name, labels) -> value."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def total(samples: Samples, name: str, **labels: str) -> float:
    """Over all series of that name that have these labels."""
    return sum(value for (found, has), value in samples.items() if found == name and labels.items() <= set(has))


@contextmanager
def fresh(tiny: Mapping[str, Checkpoint], **settings: object) -> Iterator[LiveServer]:
    """A server that has counted nothing, with a checkpoint (`slow`) whose forward passes take 20 ms."""
    slow, _ = faked(tiny["absorbing"], delay_s=0.02, name="slow")
    with serving({"absorbing": tiny["absorbing"], "slow": slow}, **settings) as server:
        yield server


def test_counts_are_those_of_the_answers(tiny: Mapping[str, Checkpoint]) -> None:
    with fresh(tiny) as server:
        bodies = [{"seq_len": 8, "num_samples": count, "num_inference_steps": 32} for count in (1, 3)]
        answers = [done_of(server.events("/sample", body)) for body in bodies]
        answers.append(server.post("/sample/block", {"seq_len": 8, "block_size": 4, "stream": False}).json())
        wait_until(lambda: total(scrape(server), "td_e2e_request_latency_seconds_count") == 3)
        found = scrape(server)
        assert total(found, "td_requests_total", outcome="done", model="absorbing") == 3
        assert total(found, "td_requests_total", endpoint="/sample/block") == 1
        for metric, field in (
            ("tokens", "completion_tokens"),
            ("nfe", "nfe"),
            ("forwards_skipped", "forwards_skipped"),
        ):
            told = sum(answer["usage"][field] for answer in answers)
            assert total(found, f"td_{metric}_total", model="absorbing") == told > 0
        for metric in ("request_queue_time", "time_to_first_state", "e2e_request_latency"):
            assert total(found, f"td_{metric}_seconds_count", model="absorbing") == 3
        seconds = sum(answer["timings"]["total_ms"] for answer in answers) / 1e3
        assert total(found, "td_e2e_request_latency_seconds_sum") == pytest.approx(seconds, abs=1e-4)
        assert total(found, "td_step_duration_seconds_count") == server.engine.ticks
        assert total(found, "td_step_tokens_sum") == 8 * total(found, "td_step_batch_size_sum")
        assert total(found, "td_text_seconds_count") == 6, "each request was tokenised once and written once"
        assert total(found, "td_build_info", version=__version__, torch=torch.__version__, device="cpu") == 1
        assert total(found, "td_ready") == 1 and total(found, "td_draining") == 0
        assert total(found, "process_resident_memory_bytes") > 1e6


def test_gauges_say_how_it_is_now(tiny: Mapping[str, Checkpoint]) -> None:
    with fresh(tiny) as server:
        with server.reading("/sample", ENDLESS) as running:
            next(running)
            with server.reading("/sample", ENDLESS):
                wait_until(lambda: server.engine.jobs.num_running == 2)
                found = scrape(server)
                assert (total(found, "td_requests_running"), total(found, "td_requests_waiting")) == (2, 0)
                assert total(found, "td_resident_rows") == 4
                assert 0 < total(found, "td_outstanding_work") < sum(job.work for job in server.engine.jobs.all)
            server.engine.drain()
            found = scrape(server)
            assert total(found, "td_ready") == 0 and total(found, "td_draining") == 1
        wait_until(lambda: server.engine.idle)
        wait_until(lambda: total(scrape(server), "td_requests_aborted_total") == 2)
        found = scrape(server)
        assert total(found, "td_requests_running") == total(found, "td_resident_rows") == 0
        assert total(found, "td_outstanding_work") == 0
        assert total(found, "td_requests_total", outcome="left", model="slow") == 2


def test_refusals_are_told_apart(tiny: Mapping[str, Checkpoint]) -> None:
    limits = {"max_outstanding_work": 1, "max_body_bytes": 300}
    with fresh(tiny, **limits) as server:
        with server.reading("/sample", ENDLESS) as running:
            next(running)
            assert server.post("/sample", {"seq_len": 4}).status_code == 429
        wait_until(lambda: server.engine.idle)
        server.post("/sample", {"seq_len": 0})
        server.post("/sample", {"prompt": "x" * 400})
        httpx2.post(server.url + "/sample", content=b"{", headers={"Content-Type": "application/json"})
        server.engine.drain()
        assert server.post("/sample", {"seq_len": 4}).status_code == server.get("/ready").status_code == 503
        found = scrape(server)
        reasons = ("overloaded", "invalid", "too_large", "malformed", "unavailable")
        assert [total(found, "td_requests_rejected_total", reason=reason) for reason in reasons] == [1] * 5
        assert total(found, "td_requests_rejected_total") == 5, "a probe that is told no has not been rejected"


def test_an_error_within_a_stream_is_its_outcome(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"])
    with serving({"absorbing": checkpoint}) as server:
        denoiser.failure = RuntimeError("the weights are on fire")
        assert server.events("/sample", {"seq_len": 8})[-1].event == "error"
        found = scrape(server)
        assert total(found, "td_requests_total", outcome="internal", endpoint="/sample") == 1
        assert total(found, "td_failed_steps_total") == 1
        assert total(found, "td_requests_rejected_total") == 0


def test_nobody_can_make_series(tiny: Mapping[str, Checkpoint]) -> None:
    def ask(number: int) -> None:
        server.get(
            f"/nothing/{number}", headers={"X-Request-Id": f"id-{number}", "X-Forwarded-For": f"10.0.0.{number}"}
        )
        server.post("/sample", {"model": f"none-{number}", f"field-{number}": number})
        httpx2.request(f"METHOD{number}", server.url + "/sample", headers={"Authorization": f"Bearer {number}"})

    with fresh(tiny) as server:
        ask(0)
        scrape(server)
        before = scrape(server).keys()
        for number in range(1, 6):
            ask(number)
        assert scrape(server).keys() == before


def test_each_app_counts_for_itself(tiny: Mapping[str, Checkpoint]) -> None:
    with fresh(tiny) as one, fresh(tiny) as other:
        one.get("/info")
        assert total(scrape(one), "td_requests_total", endpoint="/info") == 1
        assert total(scrape(other), "td_requests_total", endpoint="/info") == 0


def test_it_wants_the_key_and_speaks_openmetrics(tiny: Mapping[str, Checkpoint]) -> None:
    with fresh(tiny, api_key="secret") as server:
        assert server.get("/metrics").status_code == 401
        answer = server.get("/metrics", headers={"Authorization": "Bearer secret"})
        assert answer.headers["content-type"].startswith("text/plain; version=")
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        answer = server.get("/metrics", headers={"Authorization": "Bearer secret", "Accept": accept})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
