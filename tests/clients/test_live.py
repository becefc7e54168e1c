"""Every endpoint of a real server, by both clients."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.live_server import LiveServer
from token_diffusion_client import Client, SampleError

pytest_plugins = ["tests.server_fixtures", "tests.clients.both"]


def test_text_and_tokens(connect: type[Client], live: LiveServer) -> None:
    with connect(live.url) as client:
        told = client.tokenize("w3 w4", model="uniform")
        vocabulary = client.tokens("uniform")
        assert (told.model, told.count, len(told.tokens)) == ("uniform", 2, 2)
        assert told.token_strs == [vocabulary.pieces[id] for id in told.tokens]
        assert client.detokenize(told.tokens, model="uniform") == "w3 w4"
        assert len(vocabulary.pieces) == vocabulary.vocab_size
        assert vocabulary.mask_token_id in vocabulary.special_token_ids
        assert client.tokens().model == client.models()["models"][0]["name"]
        assert client.version() == client.info()["version"]
        with pytest.raises(SampleError) as unknown:
            client.tokens("no/body?")
        assert unknown.value.code == 404


@pytest.mark.parametrize("model", ["absorbing", "uniform", "hybrid"])
def test_scores(connect: type[Client], live: LiveServer, model: str) -> None:
    with connect(live.url) as client:
        scores = client.score(["w3 w4 w5", "w9"], prefix="w1", model=model, num_times=4, seed=3)
        again = client.score("w9", prefix="w1", model=model, num_times=4, seed=3)
        single = client.score("w9", num_times=1, model=model)
    assert (scores.model, scores.num_times, scores.seed) == (model, 4, 3)
    assert scores.estimator == ("counts" if model == "absorbing" else "times")
    assert [score.num_tokens for score in scores.scores] == [3, 1]
    for score in scores.scores:
        assert score.nats is not None and score.bits is not None
        assert score.nats == pytest.approx(sum(nats or 0 for nats in score.token_nats))
        assert score.bits == pytest.approx(score.nats / math.log(2))
    assert scores.ranking == sorted((0, 1), key=lambda index: scores.scores[index].nats or math.inf)
    assert again.scores[0].nats == pytest.approx(scores.scores[1].nats, rel=1e-4)
    assert single.scores[0].nats_error is None


def test_completions_and_their_chunks(connect: type[Client], live: LiveServer) -> None:
    prompts = ["w3 w4", "w5"]
    with connect(live.url) as client:
        ids = [client.tokenize(prompt, model="absorbing").tokens for prompt in prompts]
        whole = client.completions(ids, model="absorbing", max_tokens=8, n=2, seed=3, block_size=4)
        chunks = list(
            client.stream_completions(
                prompts,
                model="absorbing",
                max_tokens=8,
                n=2,
                seed=3,
                block_size=4,
                stream_options={"include_usage": True},
            )
        )
        everywhere: dict[str, Any] = {"model": "absorbing", "max_tokens": 8, "seed": 3, "block_size": None}
        *_, drawn = client.stream_completions("w3 w4", diffusing=True, **everywhere)
        assert drawn.choices == client.completions("w3 w4", **everywhere).choices
        infilled = client.completions("w3", suffix=" w9", echo=True, model="uniform", max_tokens=2, stop=["w7"])
    assert (whole.model, whole.seed, [choice.index for choice in whole.choices]) == ("absorbing", 3, [0, 1, 2, 3])
    assert whole.usage is not None and whole.usage == chunks[-1].usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 32)
    for choice in whole.choices:
        told = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert "".join(each.text for each in told) == choice.text
        assert told[-1].finish_reason == choice.finish_reason == "length"
    assert infilled.choices[0].text.startswith("w3")


def test_a_completion_says_how_sure_it_was(connect: type[Client], live: LiveServer) -> None:
    asked: dict[str, Any] = {
        "model": "absorbing",
        "max_tokens": 8,
        "seed": 3,
        "sampler": "confidence",
        "block_size": 4,
    }
    with connect(live.url) as client:
        (choice,) = client.completions("w3 w4", logprobs=0, **asked).choices
        chunks = list(client.stream_completions("w3 w4", logprobs=0, **asked))
        (plain,) = client.completions("w3 w4", **asked).choices
    assert choice.logprobs is not None and plain.logprobs is None and plain.text == choice.text
    assert all(logprob is not None and logprob < 0 for logprob in choice.logprobs.token_logprobs)
    assert len(choice.logprobs.tokens) == len(choice.logprobs.text_offset) == 8
    told = [each.logprobs for chunk in chunks for each in chunk.choices if each.logprobs is not None]
    assert [token for each in told for token in each.tokens] == choice.logprobs.tokens


def test_a_chat_needs_a_template(connect: type[Client], live: LiveServer) -> None:
    with connect(live.url) as client:
        with pytest.raises(SampleError, match="must have a chat template to chat") as refused:
            client.chat([{"role": "user", "content": "w1"}])
        with pytest.raises(SampleError) as streamed:
            next(client.stream_chat([{"role": "user", "content": "w1"}]))
    assert refused.value.param == "model" and str(streamed.value) == str(refused.value)


def test_refusals_name_what_is_wrong(connect: type[Client], live: LiveServer) -> None:
    with connect(live.url) as client:
        with pytest.raises(SampleError) as empty:
            client.score(["w1", ""])
        with pytest.raises(SampleError) as number:
            client.detokenize([10**9])
    assert (empty.value.code, empty.value.param) == (422, "texts.1")
    assert number.value.code == 422
