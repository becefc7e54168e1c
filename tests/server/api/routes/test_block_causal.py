"""A block-causal checkpoint on every endpoint: its own blocks, counted from position 0, and what it cannot do refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer, done_of, replay, serving, tokens_of
from tests.tiny import chat_tokenizer, tiny_model, tiny_tokenizer
from token_diffusion import TokenDiffusionScheduler, sample_block, score
from token_diffusion.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from token_diffusion.text import encode

pytest_plugins = ["tests.server_fixtures"]

SIZE = 4
PROMPT = "w1 w2 w3 w4 w5 w6"
BODY: dict[str, Any] = {"model": "blocks", "prompt": PROMPT, "seq_len": 15, "num_inference_steps": 3, "seed": 1}


def save(folder: Path, tokenizer: Any) -> Path:
    model = tiny_model("token-diffusion", len(tokenizer), causal_block_size=SIZE)
    save_checkpoint(folder, model, tokenizer, TokenDiffusionScheduler(len(tokenizer), tokenizer.mask_token_id))
    return folder


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(save(tmp_path_factory.mktemp("blocks") / "blocks", tiny_tokenizer()))


@pytest.fixture(scope="module")
def server(tiny: Mapping[str, Checkpoint], blocks: Checkpoint, tmp_path_factory: Any) -> Iterator[LiveServer]:
    """It is the first, and beside others."""
    chat = load_checkpoint(save(tmp_path_factory.mktemp("blocks") / "chat", chat_tokenizer()))
    with serving({"blocks": blocks, **tiny, "chat": chat}) as server:
        yield server


def refused(server: LiveServer, path: str, body: dict[str, Any]) -> tuple[str | None, str]:
    """By which field, and why."""
    response = server.post(path, body)
    assert response.status_code == 422, response.text
    error = response.json()["error"]
    return error["param"], error["message"]


def test_blocks_are_the_checkpoints_own_and_lie_where_it_has_them(server: LiveServer, blocks: Checkpoint) -> None:
    events = server.events("/sample/block", BODY)
    told = [json.loads(event.data) for event in events if event.event == "block"]
    assert [(each["block"], each["start"], each["end"]) for each in told] == [(0, 4, 8), (1, 8, 12), (2, 12, 15)]
    done = done_of(events)
    tokens = encode(blocks.tokenizer, seq_len=15, prompt=PROMPT)
    alone = sample_block(blocks.denoiser, blocks.scheduler, seq_len=15, num_inference_steps=3, seed=1, tokens=tokens)
    assert replay(events) == tokens_of(done) == alone.sequences.tolist()
    assert done["step_map"] == alone.step_map.tolist() and done["usage"]["nfe"] == alone.nfe <= 9
    assert (
        server.post("/sample/block", BODY | {"block_size": SIZE, "stream": False}).json()["samples"] == done["samples"]
    )


def test_alone_is_as_among_others(server: LiveServer) -> None:
    bodies = [BODY | {"stream": False, "seed": seed, "seq_len": 8 + seed, "num_samples": 2} for seed in range(1, 7)]
    alone = [server.post("/sample/block", body).json()["samples"] for body in bodies]
    with ThreadPoolExecutor(6) as pool:
        together = [
            each.json()["samples"] for each in pool.map(lambda body: server.post("/sample/block", body), bodies)
        ]
    assert together == alone


def test_another_block_size_is_refused(server: LiveServer) -> None:
    expected = ("block_size", "block_size must be 4, as the network is block-causal, got 32")
    assert refused(server, "/sample/block", BODY | {"block_size": 32}) == expected
    assert server.post("/sample/block", {"model": "absorbing", "stream": False}).status_code == 200


def test_endpoints_that_fill_in_a_whole_sample_are_not_for_it(server: LiveServer) -> None:
    """Without a name they take another one; with its, they say where it can be asked."""
    assert server.post("/sample", {"stream": False, "num_inference_steps": 2}).json()["model"] == "absorbing"
    param, message = refused(server, "/sample", BODY)
    assert param == "model"
    assert message.startswith(
        "/sample needs a checkpoint of the process absorbing or uniform, and not block-causal, as for "
    )
    assert "/sample/block; loaded: blocks (absorbing, block-causal in blocks of 4), absorbing (absorbing)" in message
    assert server.post("/sample/block", {"stream": False, "num_inference_steps": 2}).json()["model"] == "blocks"


def test_nothing_may_be_fixed_where_it_does_not_see_it(server: LiveServer) -> None:
    template = {"model": "blocks", "stream": False, "num_inference_steps": 2}
    near = server.post("/sample/block", template | {"template": "w1 w2 w3 w4 w5 [MASK] w7 [MASK]"})
    assert near.status_code == 200, near.text
    param, message = refused(server, "/sample/block", template | {"template": "w1 [MASK] w3 w4 w5 [MASK]"})
    assert param == "template" and "nothing fixed behind the block of 4 tokens" in message
    param, message = refused(
        server, "/v1/completions", {"model": "blocks", "prompt": "w1", "suffix": "w9", "max_tokens": 9}
    )
    assert param == "suffix" and "a token at position 10" in message


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", {"model": "blocks", "prompt": PROMPT, "max_tokens": 9}),
        (
            "/v1/chat/completions",
            {"model": "chat", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 9},
        ),
    ],
)
def test_openais_endpoints_choose_its_blocks(path: str, asked: dict[str, Any], server: LiveServer) -> None:
    body = {**asked, "seed": 1}
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 9
    same = server.post(path, {**body, "block_size": SIZE, "num_inference_steps": SIZE})
    assert same.json()["choices"] == answer.json()["choices"]
    for size in (None, 16):
        param, message = refused(server, path, {**body, "block_size": size})
        assert param == "block_size" and message.startswith("block_size must be 4, as ")


def test_completions_are_what_blocks_give(server: LiveServer) -> None:
    completion = server.post(
        "/v1/completions", {"model": "blocks", "prompt": PROMPT, "max_tokens": 9, "seed": 1}
    ).json()
    block = server.post("/sample/block", BODY | {"stream": False, "num_inference_steps": SIZE}).json()
    (sample,) = block["samples"]
    assert sample["text"] == PROMPT + completion["choices"][0]["text"]


def test_a_score_is_the_offline_one_and_its_price_counts_blocks(server: LiveServer, blocks: Checkpoint) -> None:
    text = "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10"
    body = {"model": "blocks", "texts": [text], "num_times": 4, "seed": 3}
    answer = server.post("/score", body).json()
    ids = blocks.tokenizer(text, add_special_tokens=False)["input_ids"]
    (alone,) = score(blocks.denoiser, blocks.scheduler, [ids], num_times=4, seed=3)
    assert answer["scores"][0]["nats"] == pytest.approx(alone.nats, rel=1e-5)
    assert answer["usage"]["nfe"] == alone.nfe == 4 * 3
    with serving({"blocks": blocks}, max_request_work=100) as small:
        _, message = refused(small, "/score", body)
        assert (
            "x 10 tokens of all texts, prefix and frame included, once for each block of 4, are 120 token passes"
            in message
        )
