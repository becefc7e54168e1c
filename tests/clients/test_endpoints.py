"""What each of the other endpoints is sent, and what its answer is read as."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.scripted_server import Reply, answer, scripted
from token_diffusion_client import Client, IncompleteStream, InvalidEvent, Message, SampleError

pytest_plugins = ["tests.clients.both"]

SCORE = {
    "index": 0,
    "nats": 6.0,
    "nats_error": 0.5,
    "bits": 8.7,
    "bits_error": 0.7,
    "nats_per_token": 3.0,
    "bits_per_token": 4.35,
    "num_tokens": 2,
    "num_unknown": 0,
    "tokens": [5, 6],
    "token_nats": [2.5, 3.5],
    "token_nats_error": [0.1, 0.4],
}
SCORES: dict[str, Any] = {
    "id": "scr-1",
    "model": "demo",
    "seed": 3,
    "num_times": 16,
    "estimator": "counts",
    "scores": [SCORE, {**SCORE, "index": 1, "nats": 5.0, "nats_error": None, "token_nats_error": None}],
    "ranking": [1, 0],
    "usage": {"prompt_tokens": 1, "completion_tokens": 4, "nfe": 16},
    "timings": {"queue_ms": 0.5, "first_state_ms": 1.0, "total_ms": 3.5},
}
TOKENS = {
    "model": "a/b",
    "vocab_size": 3,
    "mask_token_id": 2,
    "special_token_ids": [2],
    "pieces": ["a", " b", "[MASK]"],
}


IMPOSSIBLE = {name: None for name in SCORE if name.startswith(("nats", "bits"))} | {"token_nats": [None, 1.5]}


def completion(*texts: str, **others: Any) -> dict[str, Any]:
    choices = [{"index": i, "text": text, "logprobs": None, "finish_reason": None} for i, text in enumerate(texts)]
    return {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "demo", "choices": choices} | others


def chunked(*data: object, ending: str = "end") -> Reply:
    lines = [f"data: {item if isinstance(item, str) else json.dumps(item)}\n\n" for item in data]
    return Reply(["".join(lines).encode()], ending)


def test_scores(connect: type[Client]) -> None:
    with scripted(score=answer(SCORES)) as server, connect(server.url) as client:
        scores = client.score(["a b", "c"], prefix="x", num_times=16, seed=None)
        client.score("alone")
    assert [score.nats for score in scores.scores] == [6, 5]
    assert (scores.ranking, scores.scores[1].nats_error, scores.scores[0].token_nats_error) == (
        [1, 0],
        None,
        [0.1, 0.4],
    )
    assert [request.body for request in server.requests] == [
        {"texts": ["a b", "c"], "prefix": "x", "num_times": 16},
        {"texts": ["alone"]},
    ]


def test_a_text_without_any_probability(connect: type[Client]) -> None:
    unlikely = SCORES | {"scores": [SCORE | IMPOSSIBLE | {"num_unknown": 1}], "ranking": [0]}
    with scripted(score=answer(unlikely)) as server, connect(server.url) as client:
        (score,) = client.score("?").scores
    assert (score.nats, score.bits_per_token, score.token_nats, score.num_unknown) == (None, None, [None, 1.5], 1)


def test_text_and_tokens(connect: type[Client]) -> None:
    tokenized = {"model": "demo", "count": 2, "max_model_len": None, "tokens": [5, 6], "token_strs": ["a", " b"]}
    replies = {"tokenize": answer(tokenized), "detokenize": answer({"model": "demo", "prompt": "a b"})}
    with scripted(**replies, version=answer({"version": "0.1.0"})) as server, connect(server.url) as client:
        assert client.tokenize("a b", add_frame=True).tokens == [5, 6]
        assert client.detokenize((5, 6), model="demo") == "a b"
        assert client.version() == "0.1.0"
    assert [request.body for request in server.requests] == [
        {"prompt": "a b", "add_frame": True},
        {"tokens": [5, 6], "model": "demo"},
        None,
    ]


def test_the_vocabulary_of_a_model_is_by_its_name(connect: type[Client]) -> None:
    with scripted(models=answer({"models": [{"name": "a/b"}]})) as server, connect(server.url) as client:
        server.replies["/models/a%2Fb/tokens"] = answer(TOKENS)
        assert client.tokens().pieces == client.tokens("a/b").pieces == ["a", " b", "[MASK]"]
    assert [request.path for request in server.requests] == ["/models", *["/models/a%2Fb/tokens"] * 2]


def test_completions(connect: type[Client]) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "completion_tokens_details": {}}
    with scripted(v1_completions=answer(completion("a", "b", usage=usage))) as server, connect(server.url) as client:
        done = client.completions(["x", "y"], max_tokens=4, stop=["."], block_size=None, seed=None)
    assert [choice.text for choice in done.choices] == ["a", "b"]
    assert done.usage is not None and done.usage.total_tokens == 3
    assert server.requests[0].body == {"prompt": ["x", "y"], "max_tokens": 4, "stop": ["."], "block_size": None}


def test_completions_in_chunks(connect: type[Client]) -> None:
    reply = chunked(completion("a"), completion(" b"), "[DONE]")
    with scripted(v1_completions=reply) as server, connect(server.url) as client:
        assert [chunk.choices[0].text for chunk in client.stream_completions("x", diffusing=False)] == ["a", " b"]
    assert server.requests[0].body == {"prompt": "x", "diffusing": False, "stream": True}


TALK: list[Message] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


def chat(kind: str, **choice: Any) -> dict[str, Any]:
    choices = [{"index": 0, "logprobs": None, "finish_reason": None} | choice]
    return {"id": "chatcmpl-1", "object": kind, "created": 7, "model": "demo", "seed": 5, "choices": choices}


def test_a_chat(connect: type[Client]) -> None:
    message = {"role": "assistant", "content": "hello", "refusal": None}
    sure = {"content": [{"token": "hello", "logprob": -0.5, "bytes": [], "top_logprobs": []}], "refusal": None}
    whole = chat("chat.completion", message=message, finish_reason="stop", logprobs=sure)
    with scripted() as server, connect(server.url) as client:
        server.replies["/v1/chat/completions"] = answer(whole)
        said = client.chat(TALK, max_completion_tokens=8, seed=None, num_inference_steps=None, logprobs=True)
        (choice,) = said.choices
    assert (said.seed, choice.message.role, choice.message.content, choice.finish_reason) == (
        5,
        "assistant",
        "hello",
        "stop",
    )
    assert choice.logprobs is not None
    assert [(token.token, token.logprob) for token in choice.logprobs.content] == [("hello", -0.5)]
    asked = {"max_completion_tokens": 8, "num_inference_steps": None, "logprobs": True}
    assert server.requests[0].body == {"messages": TALK} | asked


def test_a_chat_in_chunks(connect: type[Client]) -> None:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, {"content": "hel"}, {"content": "lo"}, {}]
    with scripted() as server, connect(server.url) as client:
        server.replies["/v1/chat/completions"] = chunked(
            *(chat("chat.completion.chunk", delta=delta) for delta in deltas), "[DONE]"
        )
        told = [chunk.choices[0].delta for chunk in client.stream_chat(TALK)]
    assert [(delta.role, delta.content) for delta in told] == [
        ("assistant", ""),
        (None, "hel"),
        (None, "lo"),
        (None, None),
    ]
    assert server.requests[0].body == {"messages": TALK, "stream": True}


@pytest.mark.parametrize("ending", ["end", "abort"])
def test_chunks_without_an_end_are_incomplete(connect: type[Client], ending: str) -> None:
    reply = chunked(completion("a"), ending=ending)
    with scripted(v1_completions=reply) as server, connect(server.url) as client:
        chunks = client.stream_completions("x")
        assert next(chunks).choices[0].text == "a"
        with pytest.raises(IncompleteStream, match=r"^the stream ended without \[DONE\]$"):
            next(chunks)


def test_an_error_among_the_chunks(connect: type[Client]) -> None:
    reply = chunked(completion("a"), {"error": {"message": "out", "type": "timeout", "code": 504}})
    with scripted(v1_completions=reply) as server, connect(server.url) as client, pytest.raises(SampleError) as raised:
        list(client.stream_completions("x"))
    assert (raised.value.type, raised.value.code) == ("timeout", 504)


def test_answers_of_another_shape_are_named(connect: type[Client]) -> None:
    wrong = SCORES | {"scores": [{**SCORE, "nats": "much"}]}
    replies = {"score": answer(wrong), "detokenize": answer({"model": "demo"}), "models": answer({"models": [{}]})}
    with scripted(**replies) as server, connect(server.url) as client:
        with pytest.raises(InvalidEvent, match=r"^/score.scores\[0\].nats must be a number, got 'much'$"):
            client.score("a")
        with pytest.raises(InvalidEvent, match=r"^/detokenize.prompt is missing$"):
            client.detokenize([1])
        with pytest.raises(InvalidEvent, match=r"^/models.models\[0\].name is missing$"):
            client.tokens()
        server.replies["/models"] = answer({"models": []})
        with pytest.raises(InvalidEvent, match=r"^/models must name a checkpoint, got none$"):
            client.tokens()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "a\ud800b"}, r"prompt must be valid Unicode, got 'a\\ud800b' at character 1"),
        ({"template": "\udfff"}, r"template must be valid Unicode, got '\\udfff' at character 0"),
        ({"stop": ["ok", "\ud800"]}, r"stop\[1\] must be valid Unicode, got '\\ud800' at character 0"),
        ({"temperature": float("nan")}, "temperature must be a finite number, got nan"),
        ({"top_p": float("inf")}, "top_p must be a finite number, got inf"),
    ],
)
def test_what_json_cannot_say_is_not_sent(connect: type[Client], fields: dict[str, Any], message: str) -> None:
    with scripted() as server, connect(server.url) as client:
        with pytest.raises(ValueError, match=f"^{message}$"):
            client.sample(**fields)
        with pytest.raises(ValueError, match=f"^{message}$"):
            next(client.stream_block(**fields))
        assert server.requests == []


def test_a_surrogate_among_texts_is_found(connect: type[Client]) -> None:
    with scripted() as server, connect(server.url) as client:
        with pytest.raises(
            ValueError, match=r"^texts\[1\] must be valid Unicode, got 'x{20}\\ud800y{19}' at character 99$"
        ):
            client.score(["fine", "x" * 99 + "\ud800" + "y" * 99])
        assert server.requests == []


def test_right_to_left_text_and_markup_go_as_they_are(connect: type[Client]) -> None:
    prompt = "<b>שלום</b>\u202e\x1b[31m 😀"
    with scripted(detokenize=answer({"model": "demo", "prompt": prompt})) as server, connect(server.url) as client:
        assert client.detokenize([1]) == prompt
        with pytest.raises(SampleError):
            client.sample(prompt)
    assert server.requests[1].body["prompt"] == prompt
