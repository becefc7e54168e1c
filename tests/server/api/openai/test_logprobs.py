"""Log-probabilities in OpenAI's shapes: of the tokens whose text is told, and of no others."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.pieces import bytes_of
from tests.live_server import LiveServer, serving
from tests.openai_clients import client_of, fond
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

ASKED: dict[str, Any] = {"prompt": "w3 w4", "max_tokens": 9, "seed": 5, "extra_body": {"block_size": 3}}
SAID: dict[str, Any] = {"messages": [{"role": "user", "content": "the cat sat"}], "max_tokens": 24, "seed": 3}


@pytest.mark.parametrize("model", ["absorbing", "uniform"])
def test_those_of_a_completion_are_those_of_its_sample(shop: LiveServer, client: Any, model: str) -> None:
    ours = {"prompt": "w3 w4", "seq_len": 11, "seed": 5, "block_size": 3, "num_inference_steps": 3, "logprobs": True}
    done = shop.post("/sample/block", {**ours, "model": model, "stream": False}).json()
    [choice] = client.completions.create(**ASKED, model=model, logprobs=0).choices
    assert choice.logprobs.token_logprobs == done["logprobs"][0][2:]
    assert " ".join(each for each in choice.logprobs.tokens if each[0] == "w") == choice.text.strip()
    assert choice.logprobs.text_offset == [sum(map(len, choice.logprobs.tokens[:n])) for n in range(9)]
    assert choice.logprobs.top_logprobs is None
    assert client.completions.create(**ASKED, model=model).choices[0].logprobs is None


def test_a_stream_of_a_completion_adds_up(client: Any) -> None:
    asked = {**ASKED, "model": "absorbing", "logprobs": 1, "n": 2, "stop": ["w1"]}
    whole = client.completions.create(**asked)
    told: dict[int, list[Any]] = {0: [], 1: []}
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            told[choice.index].append(choice)
    for choice in whole.choices:
        pieces = told[choice.index]
        for name in ("tokens", "token_logprobs", "text_offset"):
            added = [value for piece in pieces for value in getattr(piece.logprobs, name)]
            assert added == getattr(choice.logprobs, name)
        assert len(choice.logprobs.tokens) == len(choice.text.split())
        text = ""
        for piece in pieces:
            text += piece.text
            known = [token for each in pieces[: pieces.index(piece) + 1] for token in each.logprobs.tokens]
            assert "".join(known) == text.replace(" ", ""), "none before its text, and none after"


@pytest.mark.parametrize(
    ("model", "sampler"), [("absorbing", "remdm"), ("absorbing", "gibbs"), ("uniform", "self_correction")]
)
def test_what_a_sampler_may_yet_rewrite_is_not_told(client: Any, model: str, sampler: str) -> None:
    asked = {**ASKED, "model": model, "logprobs": 0, "extra_body": {"block_size": 3, "sampler": sampler}}
    [whole] = client.completions.create(**asked).choices
    pieces = [choice for chunk in client.completions.create(**asked, stream=True) for choice in chunk.choices]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [each for piece in pieces for each in piece.logprobs.tokens] == whole.logprobs.tokens
    assert [each for piece in pieces for each in piece.logprobs.token_logprobs] == whole.logprobs.token_logprobs


def test_those_of_a_chat_spell_its_text(client: Any) -> None:
    [choice] = client.chat.completions.create(**SAID, model="chat", logprobs=True).choices
    content = choice.logprobs.content
    assert b"".join(bytes(each.bytes) for each in content).decode("utf-8", "replace") == choice.message.content
    assert len(content) == 24 and all(each.logprob <= 0 and each.top_logprobs == [] for each in content)
    told: list[Any] = []
    stream = client.chat.completions.create(**SAID, model="chat", logprobs=True, stream=True)
    for chunk in stream:
        told += [each for choice in chunk.choices if choice.logprobs for each in choice.logprobs.content]
    assert [(each.token, each.logprob) for each in told] == [(each.token, each.logprob) for each in content]
    assert client.chat.completions.create(**SAID, model="chat").choices[0].logprobs is None


def test_what_follows_an_end_has_none(chatty: Checkpoint) -> None:
    end = chatty.tokenizer.eos_token_id
    with serving({"chat": fond(chatty, end)}) as server, client_of(server) as client:
        [choice] = client.chat.completions.create(**SAID, model="chat", logprobs=True).choices
        assert (choice.finish_reason, choice.message.content, choice.logprobs.content) == ("stop", "", [])
        [text] = client.completions.create(model="chat", prompt="a", max_tokens=4, logprobs=0).choices
        assert (text.finish_reason, text.logprobs.tokens) == ("stop", [])


def test_a_string_that_cuts_a_text_cuts_its_tokens(client: Any) -> None:
    asked = {**ASKED, "model": "absorbing", "logprobs": 0}
    [whole] = client.completions.create(**asked).choices
    third = whole.logprobs.tokens[3]
    [cut] = client.completions.create(**asked, stop=[third]).choices
    count = whole.logprobs.tokens.index(third)
    assert cut.finish_reason == "stop" and cut.logprobs.tokens == whole.logprobs.tokens[:count]
    assert cut.logprobs.token_logprobs == whole.logprobs.token_logprobs[:count]


@pytest.mark.parametrize(
    ("piece", "expected"),
    [("", b""), (" cat", b" cat"), ("<0xE2>", b"\xe2"), ("a<0xE2><0x82>", b"a\xe2\x82"), ("é", b"\xc3\xa9")],
)
def test_bytes_of_a_piece(piece: str, expected: bytes) -> None:
    assert bytes_of(piece) == expected


@pytest.mark.parametrize("preset", ["llada", "fast-dllm"])
def test_a_preset_holds_for_completions_too(shop: LiveServer, client: Any, preset: str) -> None:
    fields = {"model": "absorbing", "prompt": "w3 w4", "seed": 5, "preset": preset}
    done = shop.post("/sample/block", {**fields, "seq_len": 11, "stream": False}).json()
    answer = shop.post("/v1/completions", {**fields, "max_tokens": 9}).json()
    assert answer["choices"][0]["text"].strip() == done["samples"][0]["text"].removeprefix("w3 w4 ")
