"""The benchmarks' own arithmetic, loops and generators; their figures are nobody's test."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from torch import Tensor

from benchmarks import ROOT
from benchmarks.__main__ import PARTS, main
from benchmarks.environment import commit, provenance
from benchmarks.figures import credit, median, percentile, poisson_times
from benchmarks.network.packing import differing
from benchmarks.report import Section, Table, merged, text
from benchmarks.sampling.determinism import compare, make_requests
from benchmarks.sampling.limit import Recorder, replay
from benchmarks.sampling.pipeline import make_pipeline, run_pipeline
from benchmarks.sampling.samplers import CASES, Case, count_steps, full_logits, state_at, time_textbook
from benchmarks.sampling.textbook import TEXTBOOKS, Task, nucleus, race, subs
from benchmarks.serving.direct import drive, parameters_of
from benchmarks.serving.load import Plan, play
from benchmarks.serving.measure import Trace, summarise
from benchmarks.serving.plain_server import create_app
from benchmarks.serving.traffic import Ask, endpoints, mixed
from tests.live_server import LiveServer
from tests.tiny import PROCESSES, NeighbourDenoiser, tiny_model
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.networks.denoiser import as_denoiser
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run

pytest_plugins = ["tests.server_fixtures"]

MODELS = {"/sample": "absorbing", "/sample/block": "absorbing", "/sample/hybrid": "hybrid"}
LIMITS = {"most_tokens": 64, "most_steps": 16}


def test_percentiles() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([0, 10], 99) == pytest.approx(9.9)
    assert [percentile([5.0], percent) for percent in (0, 50, 100)] == [5.0] * 3
    assert median([1, 2, 3, 10]) == 2.5
    assert math.isnan(percentile([], 50))


def test_poisson_arrivals_have_their_rate_and_their_variance() -> None:
    times = poisson_times(rate=5.0, seconds=2000.0, seed=1)
    assert times == sorted(times)
    assert times == poisson_times(5.0, 2000.0, 1)
    assert times != poisson_times(5.0, 2000.0, 2)
    assert times[0] > 0 and times[-1] < 2000
    assert len(times) == pytest.approx(10_000, abs=400)  # four standard deviations
    counts = torch.histc(torch.tensor(times), bins=2000, min=0, max=2000)
    assert counts.var().item() == pytest.approx(5.0, rel=0.2)


def test_credit_counts_what_falls_inside() -> None:
    points = [(1.0, 0.25), (2.0, 0.5), (3.0, 1.0)]
    assert credit(points, 0.0, 3.0) == 1.0
    assert credit(points, 1.5, 2.5) == 0.25
    assert credit(points, 3.0, 9.0) == 0.0


def test_a_summary_counts_shares_of_requests_and_leaves_out_what_was_refused() -> None:
    whole = Trace("mixed", 100, sent=10.5, states=[(11.0, 0.5, 1), (12.0, 1.0, 2)], ended=12.0, num_bytes=50)
    half = Trace("mixed", 100, sent=5.0, states=[(9.0, 0.5, 3), (11.0, 1.0, 5)], ended=11.0, num_bytes=70)
    later = Trace("mixed", 100, sent=19.0, states=[(19.5, 0.1, 1), (21.0, 1.0, 9)])
    refused = Trace("mixed", 100, sent=11.0, status=429)
    summary = summarise([whole, half, later, refused], start=10.0, end=20.0)
    assert summary.tokens_per_s == pytest.approx((100 + 50 + 10) / 10)
    assert summary.nfe_per_s == pytest.approx((2 + 2 + 1) / 10)
    assert summary.requests_per_s == pytest.approx(0.2)
    assert summary.first_state_p50 == pytest.approx(0.5)
    assert summary.total_p50 == pytest.approx((1.5 + 6.0) / 2)
    assert (summary.finished, summary.unfinished, summary.rejected_share) == (2, 1, 0.25)
    assert summary.bytes_per_stream == 60


def test_a_table_and_a_page() -> None:
    table = Table(["name", "value"])
    table.add("a", 1234.6)
    table.add("b", 0.012345)
    assert table.markdown() == "| name | value |\n| --- | --- |\n| a | 1235 |\n| b | 0.0123 |"
    with pytest.raises(ValueError, match="must have 2 cells, got 1"):
        table.add("a")
    assert [text(value) for value in (math.nan, math.inf, 12.345, 99.96, 3, "x")] == [
        "-",
        "inf",
        "12.3",
        "100.0",
        "3",
        "x",
    ]


@pytest.mark.parametrize("name", ["one", "qm9", "by-size_2"])
def test_a_new_section_replaces_its_own_and_leaves_the_others(name: str) -> None:
    sections = {each: Section(each, each.upper(), [f"old {each}"]).markdown("from here") for each in (name, "two")}
    page = merged(merged("# Page\n", name, sections[name]), "two", sections["two"])
    assert page.index("# Page") < page.index(f"old {name}") < page.index("old two")
    fresh = merged(page, name, Section(name, "ONE", ["new one"]).markdown("from there"))
    assert f"old {name}" not in fresh
    assert fresh.index("new one") < fresh.index("from there") < fresh.index("old two")
    assert merged(fresh, "two", sections["two"]) == fresh


def test_a_section_says_what_failed() -> None:
    assert "**Failed:** rows are stuck" in Section("soak", "Soak", [], ["rows are stuck"]).markdown("")


def test_the_provenance_names_commit_and_command() -> None:
    line = provenance(["samplers", "--only", "mdlm"], "cpu", "float32", 12.3)
    assert "python -m benchmarks samplers --only mdlm" in line
    assert f"commit {commit()}" in line
    assert torch.__version__ in line


def test_mixed_requests_are_the_same_for_a_seed_and_within_their_bounds() -> None:
    first, again, other = ([*islice(mixed(MODELS, seed, **LIMITS), 200)] for seed in (1, 1, 2))
    assert first == again != other
    assert {ask.path for ask in first} == set(MODELS)
    assert {ask.body["model"] for ask in first} == {"absorbing", "hybrid"}
    assert max(ask.tokens for ask in first) == 64
    assert all(ask.steps <= 32 and parameters_of(ask).seq_len == ask.tokens for ask in first)


def test_steps_of_a_block_wise_request_are_those_of_all_blocks() -> None:
    body = {"seq_len": 70, "num_inference_steps": 4, "block_size": 32}
    assert Ask("/sample/block", body).steps == 12
    assert Ask("/sample", {"seq_len": 70, "num_inference_steps": 4}).steps == 4


def test_endpoints_have_the_first_model_that_fits() -> None:
    assert endpoints({"a": "absorbing", "b": "absorbing", "h": "hybrid"}) == {
        "/sample": "a",
        "/sample/block": "a",
        "/sample/hybrid": "h",
    }
    assert endpoints({"u": "uniform"}) == {"/sample": "u", "/sample/block": "u"}


def certain(answer: Tensor, vocab_size: int) -> Any:
    """A network that knows the text [L] and leaves no doubt."""

    def network(tokens: Tensor, t: float) -> Tensor:
        logits = torch.zeros(*tokens.shape, vocab_size)
        known = answer[: tokens.shape[1]].expand_as(tokens)
        return logits.scatter_(-1, known.unsqueeze(-1), 50.0)

    return network


@pytest.mark.parametrize(("case", "textbook"), [(case, name) for case in CASES.values() for name in case.textbooks])
def test_a_textbook_loop_writes_what_its_network_knows(case: Case, textbook: str) -> None:
    block_size = 8 if case.parameters.block_size else None
    parameters = replace(case.parameters, seq_len=32, num_inference_steps=64, block_size=block_size)
    scheduler = TokenDiffusionScheduler(20, 3, forward_process=case.process)
    torch.manual_seed(0)
    answer = torch.arange(32) % 16 + 4
    prior, task = scheduler.sample_prior((4, 32)), Task(scheduler, parameters)
    *_, (_, z) = TEXTBOOKS[textbook].run(certain(answer, 20), task, prior)
    assert (z == answer).float().mean() > 0.98  # gidd's ends at t_eps, and leaves a little noise
    if case.process == "absorbing":
        assert torch.equal(z, answer.expand(4, 32))


@pytest.mark.parametrize("textbook", ["mdlm, ddpm", "mdlm, ddpm_cache", "bd3lms", "diffusers #12911"])
def test_a_textbook_loop_unmasks_at_the_rate_of_the_schedule(textbook: str) -> None:
    scheduler = TokenDiffusionScheduler(20, 3)
    torch.manual_seed(0)
    network, task = certain(torch.full((32,), 5), 20), Task(scheduler, SamplingParameters(32, 64, 16))
    masked = {
        step: (z == 3).float().mean().item()
        for step, z in TEXTBOOKS[textbook].run(network, task, scheduler.sample_prior((64, 32)))
    }
    for step in (1, 4, 8, 12):
        assert masked[step] == pytest.approx(1 - step / 16, abs=0.06)  # bd3lms' grid is a little off, and noise


def test_a_textbook_draw_has_its_weights() -> None:
    torch.manual_seed(0)
    counts = race(torch.tensor([1.0, 0.0, 3.0]).expand(20_000, 3)).bincount(minlength=3)
    assert counts[1] == 0
    assert counts[2].item() / 20_000 == pytest.approx(0.75, abs=0.02)


def test_textbook_shaping() -> None:
    theta = torch.tensor([0.5, 0.2, 0.3])
    assert nucleus(theta, 0.85).tolist() == pytest.approx([0.625, 0.0, 0.375])
    assert nucleus(theta, 0.1).tolist() == [1.0, 0.0, 0.0]
    log_theta = subs(torch.tensor([[[0.0, 1.0, -1e6], [3.0, 1.0, -1e6]]]), torch.tensor([[0, 2]]), mask=2)
    assert log_theta[0, 0].exp().tolist() == [1.0, 0.0, 0.0]
    assert log_theta[0, 1].exp().sum().item() == pytest.approx(1)


def test_steps_that_a_textbook_evaluates() -> None:
    mdlm, block = CASES["mdlm"], CASES["block"]
    assert count_steps(TEXTBOOKS["mdlm, ddpm"], mdlm) == (129, 0)
    evaluated, kept = count_steps(TEXTBOOKS["mdlm, ddpm_cache"], mdlm)
    assert evaluated + kept == 129
    assert evaluated == pytest.approx(1 + 128 * (1 - (1 - 1 / 128) ** 256), abs=13)  # four standard deviations
    assert count_steps(TEXTBOOKS["diffusers #12911"], block) == (512, 0)
    evaluated, kept = count_steps(TEXTBOOKS["bd3lms"], block)
    assert 350 < evaluated < evaluated + kept <= 512


def test_the_state_that_a_step_finds() -> None:
    scheduler = TokenDiffusionScheduler(50, 4, forward_process="absorbing")
    task = Task(scheduler, SamplingParameters(64, 8, 16, block_size=16))
    z = state_at(task, 16 + 8, 50, torch.device("cpu"))
    shares = [(z[:, start : start + 16] == 4).float().mean().item() for start in (0, 16, 32, 48)]
    assert shares[0] == 0
    assert 0.25 < shares[1] < 0.75
    assert shares[2] == shares[3] == pytest.approx(1, abs=0.02)


def test_the_time_of_a_textbook_is_that_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))  # each step takes 1 s
    task = Task(TokenDiffusionScheduler(20, 3), SamplingParameters(8, 1, 16))
    network = certain(torch.full((8,), 5), 20)
    assert time_textbook(TEXTBOOKS["mdlm, ddpm_cache"], network, task, (12, 5), 4, torch.device("cpu")) == 17
    assert time_textbook(TEXTBOOKS["mdlm, ddpm"], network, task, (17, 0), 4, torch.device("cpu")) == 17


def test_the_limit_repeats_the_calls_of_a_run() -> None:
    scheduler, model = TokenDiffusionScheduler(50, 4), tiny_model()
    recorder = Recorder(model)
    parameters = SamplingParameters(24, 2, 12, seed=3)
    output = run(recorder, scheduler, parameters)
    assert torch.equal(output.sequences, run(model, scheduler, parameters).sequences)
    assert len(recorder.calls) == output.nfe
    again = Recorder(model)
    replay(again, recorder.calls)
    for one, other in zip(recorder.calls, again.calls, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.positions, other.positions)


def test_the_released_pipeline_runs_a_masked_lm_as_it_is() -> None:
    tokens = run_pipeline(make_pipeline(tiny_model()), SamplingParameters(16, 2, 8, top_p=0.9, block_size=8), 4)
    assert tokens.shape == (2, 16)
    assert (tokens != 4).float().mean() > 0.8  # it may draw the mask itself


@pytest.mark.parametrize("process", PROCESSES)
def test_determinism_finds_nothing_where_there_is_nothing(tiny: Mapping[str, Checkpoint], process: str) -> None:
    denoiser: Any = NeighbourDenoiser(50)
    counts = compare(_cpu(tiny[process], denoiser), "fast", make_requests(24, seed=0))
    assert sum(count.requests for count in counts.values()) >= 18
    assert all(count.requests > 0 and count.tokens > 16 for count in counts.values())
    assert all(count.differing == count.differing_tokens == 0 for count in counts.values())


def test_determinism_finds_a_network_that_looks_at_its_neighbours(tiny: Mapping[str, Checkpoint]) -> None:
    def counting(tokens: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 50).index_fill_(-1, torch.tensor(5 + len(tokens)), 50.0)

    counts = compare(_cpu(tiny["absorbing"], counting), "fast", make_requests(24, seed=0))
    assert all(count.differing > count.requests / 2 for count in counts.values())
    assert all(count.differing_tokens > count.tokens / 4 for count in counts.values())


@pytest.mark.parametrize("padded", [False, True])
def test_differing_counts_the_passes_in_which_a_row_sees_its_neighbours(padded: bool) -> None:
    def peeking(tokens: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 50) + len(tokens)

    assert differing(as_denoiser(NeighbourDenoiser(50)), 50, padded, 10) == 0
    assert differing(as_denoiser(peeking), 50, padded, 10) == 10


def _cpu(checkpoint: Checkpoint, denoiser: Any) -> Checkpoint:
    return replace(checkpoint, denoiser=as_denoiser(denoiser))


def test_the_load_generator_and_the_bare_engine_do_the_same_work(
    live: LiveServer, tiny: Mapping[str, Checkpoint]
) -> None:
    plan = Plan(live.url, MODELS, seconds=0, closed=3, requests=9, limits=LIMITS)
    over_http, direct = asyncio.run(play(plan)), drive(tiny, plan, max_tokens=256)
    asked = sum(ask.tokens for ask in plan.asks())
    for outcome in (over_http, direct):
        summary = outcome.summary
        assert (summary.finished, summary.unfinished, summary.broken, summary.rejected_share) == (9, 0, 0, 0)
        assert summary.tokens_per_s * (outcome.end - outcome.start) == pytest.approx(asked)
        assert all(trace.first_state is not None and trace.first_state > 0 for trace in outcome.traces)
    assert over_http.summary.bytes_per_stream > 500


def test_the_load_generator_does_without_torch() -> None:
    source = "import sys, benchmarks.serving.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], cwd=ROOT).returncode == 0


def test_a_window_ends_and_what_still_runs_is_cut_off(live: LiveServer) -> None:
    plan = Plan(live.url, MODELS, seconds=0.4, rate=40.0, warmup=0.2, drain=0.0, limits=LIMITS)
    outcome = asyncio.run(play(plan))
    assert outcome.end - outcome.start == pytest.approx(0.4)
    assert len(outcome.traces) == pytest.approx(len(poisson_times(40.0, 0.6, 0)), abs=3)
    assert outcome.summary.broken == 0


@pytest.mark.parametrize("loop", ["ours", "textbook"])
def test_the_plain_server_answers_as_ours_does(live: LiveServer, tiny: Mapping[str, Checkpoint], loop: str) -> None:
    transport = httpx2.ASGITransport(app=create_app(dict(tiny), loop))

    async def ask(each: Ask) -> list[httpx2.ServerSentEvent]:
        async with (
            httpx2.AsyncClient(transport=transport, base_url="http://plain") as client,
            client.sse(each.path, method="POST", json=each.body) as source,
        ):
            return [event async for event in source]

    for each in islice(mixed(MODELS, 3, **LIMITS), 6):
        events = asyncio.run(ask(each))
        assert [events[0].event, events[-1].event] == ["start", "done"]
        done = json.loads(events[-1].data)
        tokens = json.loads(events[0].data)["tokens"]
        for event in events[1:-1]:
            for sample, position, token in json.loads(event.data)["changes"]:
                tokens[sample][position] = token
        assert tokens == [sample["tokens"] for sample in done["samples"]]
        assert json.loads(events[-2].data)["step"] <= each.steps + 1
        if loop == "ours":
            assert tokens == [
                sample["tokens"] for sample in live.post(each.path, each.body | {"stream": False}).json()["samples"]
            ]


def test_the_command_writes_its_section_and_fails_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Section("samplers", "Samplers", ["what was found"])
    monkeypatch.setitem(PARTS, "samplers", (PARTS["samplers"][0], lambda _: found))
    page = tmp_path / "docs" / "page.md"
    assert main(["samplers", "--quick", "--output", str(page)]) == 0
    assert "what was found" in capsys.readouterr().out
    written = page.read_text(encoding="utf-8")
    assert written.startswith("# Benchmarks")
    assert "what was found" in written
    assert "python -m benchmarks samplers --quick" in written
    found.failures.append("something is broken")
    assert main(["samplers"]) == 1
    assert page.read_text(encoding="utf-8") == written


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_help_and_a_module_that_says_what_it_is(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([part, "--help"])
    assert f"python -m benchmarks {part}" in capsys.readouterr().out


def test_full_logits_are_those_of_the_model() -> None:
    model, tokens = tiny_model(), torch.arange(12).view(2, 6)
    with torch.inference_mode():
        assert torch.equal(full_logits(model)(tokens, 0.5), model(input_ids=tokens).logits)
