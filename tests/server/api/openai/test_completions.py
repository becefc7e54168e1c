"""/v1/completions over a real socket, by OpenAI's own client where it can ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import (
    APIError,
    APITimeoutError,
    AsyncOpenAI,
    InternalServerError,
    NotFoundError,
    UnprocessableEntityError,
)

import server.api.openai.telling
from tests.live_server import LiveServer, serving, tiny_tokenizer, tokens_of, wait_until
from tests.openai_clients import client_of, fond, held, post
from tests.tiny import MAX_POSITIONS, PROCESSES
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.text import decode

pytest_plugins = ["tests.server_fixtures"]

WAYS: list[dict[str, Any]] = [{"model": process} for process in PROCESSES]
WAYS += [
    {"model": "absorbing", "extra_body": {"block_size": None}},
    {"model": "uniform", "extra_body": {"block_size": 5}},
]


def asked(**fields: Any) -> dict[str, Any]:
    return {"prompt": "w3 w4 w5", "max_tokens": 24, "seed": 5, **fields}


def texts(client: Any, **fields: Any) -> dict[int, str]:
    """What the pieces of a stream add up to, and that each answer ends once, and last."""
    told: dict[int, str] = {}
    ended: set[int] = set()
    for chunk in client.completions.create(stream=True, **fields):
        for choice in chunk.choices:
            assert choice.index not in ended
            told[choice.index] = told.get(choice.index, "") + choice.text
            if choice.finish_reason:
                ended.add(choice.index)
    assert ended == set(told)
    return told


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_adds_up_to_the_answer(client: Any, way: dict[str, Any]) -> None:
    whole = client.completions.create(**asked(n=2), **way)
    assert whole.object == "text_completion" and whole.id.startswith("cmpl-") and whole.model == way["model"]
    assert [(choice.index, choice.finish_reason) for choice in whole.choices] == [(0, "length"), (1, "length")]
    assert texts(client, **asked(n=2), **way) == {choice.index: choice.text for choice in whole.choices}
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (3, 48, 51)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_answer_is_the_sample_of_that_seed(shop: LiveServer, client: Any, process: str) -> None:
    ours = {
        "model": process,
        "prompt": "w3 w4 w5",
        "seq_len": 27,
        "seed": 5,
        "block_size": 16,
        "num_inference_steps": 16,
    }
    [tokens] = tokens_of(shop.post("/sample/block", {**ours, "stream": False}).json())
    answer = client.completions.create(**asked(model=process))
    assert answer.choices[0].text == " " + decode(tiny_tokenizer(), tokens[3:])
    assert answer.to_dict()["seed"] == 5


def test_text_comes_block_by_block_and_no_later_than_it_is_final(client: Any) -> None:
    blocks = {"extra_body": {"block_size": 4}}
    stream = client.completions.create(**asked(model="uniform", stream=True), **blocks)
    pieces = [choice.text for chunk in stream for choice in chunk.choices]
    assert len(pieces) >= 2, "not all six, had the reader been slow"
    assert "".join(pieces) == client.completions.create(**asked(model="uniform"), **blocks).choices[0].text


def test_each_prompt_is_answered_as_if_alone(client: Any) -> None:
    ids = tiny_tokenizer()("w9")["input_ids"]
    together = client.completions.create(**asked(model="absorbing", prompt=["w3 w4", "", "w9"], n=2))
    assert [choice.index for choice in together.choices] == list(range(6))
    for number, prompt in enumerate(("w3 w4", "", ids)):
        alone = client.completions.create(**asked(model="absorbing", prompt=prompt, n=2))
        assert [each.text for each in alone.choices] == [each.text for each in together.choices[2 * number :][:2]]
    assert together.usage is not None and together.usage.prompt_tokens == 3 and together.usage.completion_tokens == 144
    streamed = texts(client, **asked(model="absorbing", prompt=[[8, 9], ids], n=2))
    assert sorted(streamed) == [0, 1, 2, 3]


def test_a_prompt_that_is_asked_again_gets_further_answers(client: Any) -> None:
    further = client.completions.create(**asked(model="absorbing", n=4))
    again = client.completions.create(**asked(model="absorbing", prompt=["w3 w4 w5", "w9", "w3 w4 w5"], n=2))
    answers = [choice.text for choice in further.choices]
    assert len(set(answers)) == 4
    assert [again.choices[index].text for index in (0, 1, 4, 5)] == answers
    assert again.usage is not None and (again.usage.prompt_tokens, again.usage.completion_tokens) == (7, 144)
    assert texts(client, **asked(model="absorbing", prompt=["w3 w4 w5"] * 4)) == dict(enumerate(answers))


def test_what_stands_before_a_suffix_is_filled_in(shop: LiveServer, client: Any) -> None:
    answer = client.completions.create(**asked(model="absorbing", max_tokens=3, suffix="w9 w8", echo=True))
    assert answer.choices[0].text.startswith("w3 w4 w5 w") and len(answer.choices[0].text.split()) == 6
    assert answer.usage is not None and answer.usage.prompt_tokens == 5
    template = "w3 w4 w5 [MASK] [MASK] [MASK] w9 w8"
    body = {"model": "absorbing", "template": template, "seed": 5, "block_size": 16, "num_inference_steps": 3}
    [sample] = shop.post("/sample/block", {**body, "stream": False}).json()["samples"]
    assert sample["text"] == answer.choices[0].text + " w9 w8"


def test_a_mask_that_is_typed_is_no_hole(client: Any) -> None:
    answer = client.completions.create(**asked(model="chat", prompt="a [MASK]", suffix="[MASK] b", echo=True))
    assert answer.choices[0].text.startswith("a [MASK]")


def test_a_stop_string_cuts_and_ends_the_job(client: Any) -> None:
    whole = client.completions.create(**asked(model="absorbing")).choices[0].text
    stop = whole[7:][:6]
    cut = client.completions.create(**asked(model="absorbing", stop=["never", stop]))
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (whole[: whole.index(stop)], "stop")
    assert cut.usage is not None and 1 <= cut.usage.completion_tokens <= 6
    assert texts(client, **asked(model="absorbing", stop=stop)) == {0: cut.choices[0].text}


def test_after_a_stop_string_the_rest_is_not_computed(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint = fond(tiny["absorbing"], tiny_tokenizer()("w7")["input_ids"][0])
    with serving({"absorbing": checkpoint}) as server, client_of(server) as client:
        answer = client.completions.create(
            **asked(model="absorbing", max_tokens=88, stop="w7 w7"), extra_body={"block_size": 1}
        )
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (" ", "stop")
        assert answer.usage is not None and answer.usage.completion_tokens == 2
        wait_until(lambda: server.engine.idle)
        assert server.engine.ticks < 80
        assert 'outcome="done"' in next(
            line for line in server.get("/metrics").text.splitlines() if "/v1/completions" in line
        )


def test_usage_is_told_where_it_is_asked_for(client: Any) -> None:
    def usages(**options: bool) -> list[Any]:
        fields = {"stream_options": options} if options else {}
        stream = client.completions.create(**asked(model="absorbing", stream=True), **fields)
        return [(chunk.to_dict().get("usage", "absent"), len(chunk.choices)) for chunk in stream]

    assert {usage for usage, _ in usages()} == {"absent"}
    *pieces, last = usages(include_usage=True)
    assert {usage for usage, _ in pieces} == {None}
    assert last == ({"prompt_tokens": 3, "completion_tokens": 24, "total_tokens": 27}, 0)
    so_far = [usage["completion_tokens"] for usage, _ in usages(include_usage=True, continuous_usage_stats=True)]
    assert so_far == sorted(so_far) and so_far[-1] == 24


def test_diffusing_shows_the_whole_each_time(client: Any) -> None:
    whole = client.completions.create(**asked(model="absorbing", echo=True)).choices[0].text
    stream = client.completions.create(
        **asked(model="absorbing", echo=True, stream=True), extra_body={"diffusing": True, "block_size": 16}
    )
    shown = [choice.text for chunk in stream for choice in chunk.choices]
    assert shown[-1] == whole
    assert all(text.startswith("w3 w4 w5") and len(text.split()) == 27 for text in shown)
    assert "[MASK]" in shown[0]
    with pytest.raises(UnprocessableEntityError, match="diffusing must be false where stream is"):
        client.completions.create(**asked(model="absorbing"), extra_body={"diffusing": True})


@pytest.mark.parametrize(
    "fields",
    [
        {
            "temperature": 0.0,
            "repetition_penalty": 1.0,
            "logprobs": None,
            "best_of": 1,
            "ignore_eos": True,
            "stop": None,
        },
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}, "stop": None, "ignore_eos": True},
        {
            "frequency_penalty": 0,
            "presence_penalty": 0.0,
            "logit_bias": {},
            "user": "me",
            "n": 1.0,
            "suffix": None,
            "top_p": None,
        },
        {
            "num_inference_steps": None,
            "top_k": -1,
            "min_p": 0.1,
            "timeout_s": 20,
            "use_beam_search": False,
            "min_tokens": 0,
            "prompt_logprobs": None,
        },
    ],
)
def test_bodies_of_load_generators_are_taken(shop: LiveServer, fields: dict[str, Any]) -> None:
    answer = shop.post("/v1/completions", {"model": "absorbing", "prompt": "w1", "max_tokens": 4, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": 0, "echo": True}, "logprobs"),
        ({"sampler": "nope"}, "sampler"),
        ({"sampler": "confidence", "threshold": 2}, "threshold"),
        ({"preset": "nope"}, "preset"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"best_of": 3}, "best_of"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"prompt": ["w1"] * 9, "n": 2}, "n"),
        ({"prompt": ["w1"] * 17}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["w1", 1]}, "prompt"),
        ({"prompt": [50]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [[5], [4]]}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": "w1 " * 96}, "prompt"),
        ({"prompt": "w1 " * 20_000}, "prompt"),
        ({"suffix": "\udfff"}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 96}, "max_tokens"),
        ({"max_tokens": 2**70}, "max_tokens"),
        ({"top_k": -2}, "top_k"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": 3}, "stop"),
        ({"block_size": 0}, "block_size"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"num_samples": 2}, "num_samples"),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"model": "uniform", "num_inference_steps": None}, "num_inference_steps"),
    ],
)
def test_what_cannot_be_is_refused_by_name(shop: LiveServer, fields: dict[str, Any], name: str) -> None:
    answer = post(shop, "/v1/completions", {"model": "absorbing", "prompt": "w1", **fields})
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (name, "invalid_request")
    assert error["message"].startswith(name) and "\n" not in error["message"] and len(error["message"]) < 400


def test_an_answer_is_as_long_as_there_is_room_unless_it_says(client: Any) -> None:
    answer = client.completions.create(model="absorbing", prompt="w1 " * (MAX_POSITIONS - 5))
    assert answer.usage is not None and answer.usage.completion_tokens == 5
    short = client.completions.create(model="absorbing", prompt="w1")
    assert short.usage is not None and short.usage.completion_tokens == 16


def test_many_at_once_and_asynchronously(shop: LiveServer, client: Any) -> None:
    alone = [client.completions.create(**asked(model="absorbing", seed=seed)).choices[0].text for seed in range(6)]

    async def main() -> list[str]:
        async with AsyncOpenAI(base_url=f"{shop.url}/v1", api_key="none", max_retries=0) as client:

            async def one(seed: int) -> str:
                stream = await client.completions.create(**asked(model="absorbing", seed=seed, stream=True))
                return "".join([choice.text async for chunk in stream for choice in chunk.choices])

            return await asyncio.gather(*map(one, range(6)))

    assert asyncio.run(main()) == alone


def test_a_client_that_is_told_to_come_again_does(tiny: Mapping[str, Checkpoint]) -> None:
    with (
        ThreadPoolExecutor() as pool,
        held(tiny["absorbing"], max_outstanding_work=2000) as (server, denoiser),
        client_of(server, max_retries=5) as client,
    ):
        first = pool.submit(client.completions.create, **asked(model="absorbing", n=2))
        wait_until(lambda: denoiser.calls > 0)
        second = pool.submit(client.completions.create, **asked(model="absorbing", n=2))
        wait_until(lambda: 'requests_rejected_total{reason="overloaded"} 1' in server.get("/metrics").text)
        denoiser.gate.set()
        assert len(first.result().choices) == len(second.result().choices) == 2


def test_a_client_that_waits_no_longer_frees_its_rows(tiny: Mapping[str, Checkpoint]) -> None:
    with held(tiny["absorbing"]) as (server, _), client_of(server) as client:
        with pytest.raises(APITimeoutError):
            client.completions.create(**asked(model="absorbing", timeout=0.3))
        wait_until(lambda: server.engine.jobs.work == 0)
        with pytest.raises(InternalServerError, match=r"not finished within 0\.2 s") as late:
            client.completions.create(**asked(model="absorbing"), extra_body={"timeout_s": 0.2})
        assert (late.value.status_code, late.value.type) == (504, "timeout")
        with pytest.raises(InternalServerError):
            client.with_options(max_retries=2).completions.create(
                **asked(model="absorbing"), extra_body={"timeout_s": 0.2}
            )
        counted = 'td_requests_total{endpoint="/v1/completions",model="absorbing",outcome="timeout"} 2.0'
        assert counted in server.get("/metrics").text, "none was sent again"
        stream = client.completions.create(**asked(model="absorbing", stream=True))
        wait_until(lambda: server.engine.jobs.work > 0)
        stream.close()
        wait_until(lambda: server.engine.jobs.work == 0)


def test_an_error_in_the_middle_is_raised(tiny: Mapping[str, Checkpoint]) -> None:
    with held(tiny["absorbing"]) as (server, denoiser), client_of(server) as client:
        stream = client.completions.create(**asked(model="absorbing", prompt=["w1", "w2"], stream=True))
        denoiser.failure = RuntimeError("broken")
        denoiser.gate.set()
        with pytest.raises(APIError, match="internal error") as broken:
            list(stream)
        assert (broken.value.type, broken.value.code) == ("internal", "500")
        wait_until(lambda: server.engine.idle)
        denoiser.failure = RuntimeError("broken")
        body = asked(model="absorbing", stream=True)
        lines = server.post("/v1/completions", body).text.strip().split("\n\n")
        assert lines[-1] == "data: [DONE]" and json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == 500


def test_silence_is_bridged_by_comments_that_clients_skip(
    tiny: Mapping[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.api.openai.telling, "HEARTBEAT_S", 0.05)
    with held(tiny["absorbing"]) as (live, denoiser), client_of(live) as client:
        with client.completions.with_streaming_response.create(**asked(model="absorbing", stream=True)) as response:
            lines = response.iter_lines()
            assert next(lines).startswith(":")
        stream = client.completions.create(**asked(model="absorbing", stream=True))
        denoiser.gate.set()
        assert [choice.finish_reason for chunk in stream for choice in chunk.choices][-1] == "length"


def test_an_unknown_model_is_not_found_before_anything_else(client: Any) -> None:
    with pytest.raises(NotFoundError):
        client.completions.create(model="nobody", prompt="w1 " * 1000)
