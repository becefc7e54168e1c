"""Samplers, presets and log-probabilities at the three endpoints, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from tests.live_server import LiveServer, done_of, faked, replay, serving, tokens_of
from tests.tiny import PROCESSES
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.samplers.catalogue import KINDS
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.presets import PRESETS
from token_diffusion.sampling import run

pytest_plugins = ["tests.server_fixtures"]

MASK = 4
SMALL = {"seq_len": 7, "num_inference_steps": 3, "seed": 5}
FITTING = [(name, process) for name, kind in KINDS.items() for process in kind.decoders]


def answer(server: LiveServer, path: str, **fields: Any) -> dict[str, Any]:
    """The object of `done`."""
    response = server.post(path, {"stream": False, **SMALL, **fields})
    assert response.status_code == 200, response.text
    done: dict[str, Any] = response.json()
    return done


@pytest.mark.parametrize(("sampler", "process"), FITTING)
def test_each_sampler_is_at_the_endpoints_that_fit_its_process(
    live: LiveServer, tiny: Mapping[str, Checkpoint], sampler: str, process: str
) -> None:
    checkpoint = tiny[process]
    for path in ("/sample/hybrid" if process == "hybrid" else "/sample", "/sample/block"):
        blocks = {"block_size": 3} if path == "/sample/block" else {}
        events = live.events(path, {**SMALL, **blocks, "model": process, "sampler": sampler, "num_samples": 2})
        done = done_of(events)
        assert json.loads(events[0].data)["sampler"] == done["sampler"] == sampler
        assert replay(events) == tokens_of(done) and all(MASK not in tokens for tokens in tokens_of(done))
        parameters = SamplingParameters.flat({**SMALL, **blocks, "num_samples": 2, "sampler": sampler})
        alone = run(checkpoint.denoiser, checkpoint.scheduler, parameters)
        assert tokens_of(done) == alone.sequences.tolist()
        assert "logprobs" not in done and "preset" not in done


def test_options_are_flat_fields_and_null_is_their_default(live: LiveServer, tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, seen = tiny["absorbing"], set()
    options: list[dict[str, Any]] = [{}, {"threshold": 0.99}, {"factor": 5}, {"alg_temp": 2.0, "quota": "schedule"}]
    for asked in options:
        nulls = dict.fromkeys({"threshold", "ranked_by", "grid_eps"} - asked.keys())
        done = answer(live, "/sample", sampler="confidence", **nulls, **asked)
        parameters = SamplingParameters.flat({**SMALL, "sampler": "confidence", **asked})
        assert tokens_of(done) == run(checkpoint.denoiser, checkpoint.scheduler, parameters).sequences.tolist()
        seen.add(json.dumps([tokens_of(done), done["usage"]]))
    assert len(seen) == len(options), "each of them says something"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": 0.9}, "threshold must be absent, as the sampler ancestral has no such option, got 0.9"),
        ({"sampler": "confidence", "threshold": 0}, "threshold must be in (0, 1], got 0.0"),
        ({"sampler": "confidence", "threshold": True}, "threshold must be a valid number, got True"),
        ({"sampler": "confidence", "quota": "odd"}, "quota must be even or schedule, got 'odd'"),
        ({"sampler": "confidence", "treshold": 1}, "treshold is not a field of this request, got 1"),
        ({"sampler": "confidence", "model": "uniform"}, "sampler must be ancestral"),
        (
            {"sampler": "Ancestral"},
            f"sampler must be {', '.join(list(KINDS)[:-1])} or {list(KINDS)[-1]}, got 'Ancestral'",
        ),
        ({"sampler": None}, "sampler must be a valid string, got None"),
        ({"preset": "LLaDA"}, "preset must be llada, dream, fast-dllm or remdm, got 'LLaDA'"),
        (
            {"preset": "fast-dllm", "sampler": "ancestral"},
            "threshold must be absent, as the sampler ancestral has no such option (the preset fast-dllm fills it in), got 0.9",
        ),
        (
            {"preset": "dream", "model": "uniform"},
            "sampler must be ancestral, psi, gibbs or self_correction for the uniform",
        ),
        (
            dict.fromkeys(["grid_eps", "alg_temp", "entropy_bound", "factor", "threshold"], 1),
            "threshold must be absent, as the sampler ancestral has no such option, got 1.0",
        ),
        ({"guidance_scale": -1}, "guidance_scale must be in [0, 1000], got -1.0"),
        ({"logprobs": 1}, "logprobs must be a valid boolean, got 1"),
        ({"early_end": True}, "early_end must be false, as the model has learnt no token that ends a text, got True"),
        ({"suppress_end": "yes"}, "suppress_end must be a valid boolean, got 'yes'"),
    ],
)
def test_what_cannot_be_is_refused_by_name_rule_and_value(
    live: LiveServer, fields: dict[str, Any], message: str
) -> None:
    response = live.post("/sample", {**SMALL, **fields})
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["message"].startswith(message)
    if error["param"] in fields:
        assert error["param"] == error["message"].split()[0]


def test_without_a_model_the_first_whose_process_fits_is_taken(tiny: Mapping[str, Checkpoint]) -> None:
    with serving({name: faked(tiny[name])[0] for name in ("hybrid", "uniform", "absorbing")}) as server:
        assert answer(server, "/sample")["model"] == "uniform"
        assert answer(server, "/sample", sampler="confidence")["model"] == "absorbing"
        assert answer(server, "/sample/block", sampler="confidence")["model"] == "absorbing"
        completion = server.post("/v1/completions", {"sampler": "confidence", "max_tokens": 2}).json()
        assert completion["model"] == "absorbing"
        error = server.post("/sample/hybrid", {"sampler": "confidence"}).json()["error"]
        assert error["param"] == "sampler" and "for the hybrid process" in error["message"]


def test_a_preset_is_told_as_far_as_it_held(live: LiveServer, tiny: Mapping[str, Checkpoint]) -> None:
    events = live.events("/sample/block", {"seq_len": 7, "seed": 5, "preset": "llada", "temperature": 0.3})
    start, done = json.loads(events[0].data), done_of(events)
    filled = {name: value for name, value in PRESETS["llada"].items() if name != "temperature"}
    assert start["preset"] == done["preset"] == filled and done["sampler"] == "confidence"
    by_name = live.post("/sample/block", {"seq_len": 7, "seed": 5, "temperature": 0.3, "stream": False, **filled})
    assert tokens_of(by_name.json()) == tokens_of(done), "asked for by name they give the same"
    small = {"absorbing": faked(tiny["absorbing"])[0]}
    with serving(small, max_num_inference_steps=2) as server:
        done = server.post("/sample", {"preset": "dream", "seq_len": 5, "stream": False}).json()
        assert done["preset"]["num_inference_steps"] == 2, "as any default it gives way to a limit"


def test_logprobs_of_states_add_up_to_those_of_done(live: LiveServer) -> None:
    body = {**SMALL, "prompt": "w1 w2", "num_samples": 2, "logprobs": True, "keyframe_every": 2}
    for model in PROCESSES[:2]:
        events = live.events("/sample", {**body, "model": model})
        done = done_of(events)
        found: list[list[float | None]] = [[None] * 7 for _ in range(2)]
        for state in (json.loads(event.data) for event in events if event.event == "state"):
            assert len(state["logprobs"]) == len(state["changes"])
            for (sample, position, _), logprob in zip(state["changes"], state["logprobs"], strict=True):
                found[sample][position] = logprob
            assert state.get("keyframe_logprobs", found) == found
        assert found == done["logprobs"]
        assert all(row[:2] == [None, None] for row in found), "what is fixed has none"
        numbers = [value for row in found for value in row if value is not None]
        assert numbers and all(value <= 0 for value in numbers)
        assert model != "absorbing" or len(numbers) == 10


def test_logprobs_where_somebody_comes_back(live: LiveServer) -> None:
    body = {**SMALL, "logprobs": True, "on_disconnect": "keep", "num_inference_steps": None}
    with live.reading("/sample", body) as events:
        id = json.loads(next(events).data)["id"]
        last = next(events).id
    with (
        httpx2.Client(timeout=30) as client,
        client.sse(f"{live.url}/requests/{id}/events", headers={"Last-Event-ID": str(last)}) as source,
    ):
        told = list(source)
    done = json.loads(told[-1].data)
    first = json.loads(told[0].data)
    assert first["keyframe_logprobs"][0].count(None) == first["keyframe"][0].count(MASK)
    found = first["keyframe_logprobs"]
    for state in (json.loads(event.data) for event in told if event.event == "state"):
        for (sample, position, _), logprob in zip(state["changes"], state["logprobs"], strict=True):
            found[sample][position] = logprob
    assert found == done["logprobs"]
    assert live.get(f"/requests/{id}").json()["done"]["logprobs"] == found


def test_the_price_names_what_makes_it(tiny: Mapping[str, Checkpoint]) -> None:
    with serving({"absorbing": faked(tiny["absorbing"])[0]}, max_request_work=10) as server:
        for fields in ({}, {"sampler": "confidence"}):
            error = server.post("/sample", {**SMALL, **fields}).json()["error"]
            assert error["message"].startswith(
                "num_samples 1 x seq_len 7 x 3 forward passes, which num_inference_steps 3 "
            )
            assert "21 token passes" in error["message"]
