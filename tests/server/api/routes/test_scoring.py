"""POST /score over a real socket: the offline scores, whoever else is there, and what is wrong in one line."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.live_server import LiveServer, faked, serving, wait_until
from tests.tiny import PROCESSES, byte_tokenizer, save_tiny
from token_diffusion import score
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.facts import Facts, Frame
from token_diffusion.text import encode_passage

pytest_plugins = ["tests.server_fixtures"]

TEXTS = ["w1 w2 w3 w4", "w30 nobody w5", "w40 w41 w42 w1 w2 w9"]


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    facts = Facts(Frame((2,), (3,)), known=True)
    folder = save_tiny(tmp_path_factory.mktemp("framed"), "absorbing", tokenizer=byte_tokenizer(), facts=facts)
    return load_checkpoint(folder, name="framed")


@pytest.fixture(scope="module")
def bounded(tiny: Mapping[str, Checkpoint], framed: Checkpoint) -> Iterator[LiveServer]:
    limits = {"max_seq_len": 32, "max_num_texts": 3, "max_num_times": 8, "max_request_work": 300}
    with serving({"absorbing": tiny["absorbing"], "framed": framed}, **limits) as server:
        yield server


def ask(server: LiveServer, **body: Any) -> Any:
    answer = server.post("/score", {"texts": TEXTS, "seed": 5, "num_times": 6} | body)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("prefix", [None, "w7 w8"])
def test_scores_are_the_offline_ones(
    live: LiveServer, tiny: Mapping[str, Checkpoint], process: str, prefix: str | None
) -> None:
    told, checkpoint = ask(live, model=process, prefix=prefix), tiny[process]
    passages = [encode_passage(checkpoint.tokenizer, text, prefix=prefix) for text in TEXTS]
    expected = score(
        checkpoint.denoiser,
        checkpoint.scheduler,
        [passage.tokens for passage in passages],
        given=[passage.given for passage in passages],
        num_times=6,
        seed=5,
    )
    for found, each, passage in zip(told["scores"], expected, passages, strict=True):
        for name, figure in each.figures(passage.start, passage.end).items():
            values = (np.array(value, dtype=float) for value in (found[name], figure))  # null is NaN
            np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-4)  # type: ignore[call-overload]
        assert found["tokens"] == passage.tokens[len(passage.tokens) - len(found["tokens"]) :]
        assert found["bits"] == pytest.approx(found["nats"] / math.log(2))
    assert told["estimator"] == ("counts" if process == "absorbing" else "times")
    assert [each["num_unknown"] for each in told["scores"]] == [0, 1, 0] and told["scores"][1]["token_nats"][1] is None
    assert told["ranking"] == sorted(range(3), key=lambda index: expected[index].nats)
    prefix_tokens = 3 * 2 if prefix else 0
    usage = {"prompt_tokens": prefix_tokens + 1, "completion_tokens": 12, "nfe": sum(each.nfe for each in expected)}
    assert told["usage"] == usage and (told["seed"], told["num_times"], told["model"]) == (5, 6, process)
    assert told["timings"]["total_ms"] >= told["timings"]["first_state_ms"] > 0


def test_a_score_is_the_same_among_strangers(live: LiveServer) -> None:
    body = {"template": "[MASK] " * 9, "num_inference_steps": 40, "num_samples": 4, "seed": 1, "stream": False}
    quiet, sampled = ask(live), live.post("/sample", body).json()
    beside: list[Any] = []

    def sample() -> None:
        beside.append(live.post("/sample", body).json())

    threads = [threading.Thread(target=sample) for _ in range(3)]
    for thread in threads:
        thread.start()
    busy = [ask(live) for _ in range(4)]
    for thread in threads:
        thread.join()
    for each in busy:
        assert each["ranking"] == quiet["ranking"]
        assert [found["nats"] for found in each["scores"]] == pytest.approx(
            [f["nats"] for f in quiet["scores"]], rel=1e-4
        )
    assert all(each["samples"] == sampled["samples"] for each in beside)


def test_a_seed_that_is_drawn_is_told_and_gives_the_scores_again(live: LiveServer) -> None:
    first, second = ask(live, seed=None), ask(live, seed=None)
    assert first["seed"] != second["seed"] and first["scores"][0]["nats"] != second["scores"][0]["nats"]
    again = ask(live, seed=first["seed"], texts=TEXTS[:1])
    assert again["scores"][0]["nats"] == pytest.approx(first["scores"][0]["nats"], rel=1e-4)
    assert first["id"] != again["id"] and first["id"].startswith("smp-")
    assert ask(live, num_times=1)["scores"][0]["nats_error"] is None


def test_a_frame_is_given_and_not_counted(bounded: LiveServer) -> None:
    """A prefix's last word and a text's first meet as they are written."""
    told = ask(bounded, model="framed", texts=["cat", " cat", "猫\u202e<b>"], prefix="the", num_times=2)
    assert told["usage"]["prompt_tokens"] == 3 * len(bounded_tokens(bounded, "the"))
    apart, spaced, nasty = told["scores"]
    assert apart["tokens"] != spaced["tokens"] and spaced["num_tokens"] == len(spaced["tokens"])
    assert nasty["num_tokens"] == len(nasty["token_nats"]) == 9


def bounded_tokens(server: LiveServer, text: str) -> list[int]:
    tokens: list[int] = server.post("/tokenize", {"prompt": text, "model": "framed"}).json()["tokens"]
    return tokens


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"texts": []}, "texts", "texts must hold at least one text, got []"),
        ({"texts": ["w1"] * 4}, "texts", "texts must hold at most 3 texts on this server, got '4 texts'"),
        ({"texts": ["w1", ""]}, "texts.1", "texts.1 must hold at least one token, got ''"),
        ({"texts": ["w1", "  "]}, "texts.1", "texts.1 must hold at least one token, got '  '"),
        (
            {"texts": ["nobody"]},
            "texts.0",
            "texts.0 must hold at least one token that the tokenizer knows, got 'nobody'",
        ),
        ({"texts": ["w1 " * 33]}, "texts.0", "texts.0 must fit into 32 tokens, got '33 tokens'"),
        (
            {"texts": ["a" * 20], "prefix": "b" * 11, "model": "framed"},
            "texts.0",
            "texts.0 must fit into 32 tokens, 2 of them the frame's, 11 the prefix's, got '20 tokens'",
        ),
        ({"texts": ["w1", 2]}, "texts.1", "texts.1 must be a valid string, got 2"),
        ({"texts": "w1"}, "texts", "texts must be a valid list, got 'w1'"),
        ({"texts": ["\ud800"]}, "texts.0", "texts.0 must hold no half of a surrogate pair, got '\\ud800'"),
        ({"prefix": "\udfff"}, "prefix", "prefix must hold no half of a surrogate pair, got '\\udfff'"),
        ({"num_times": 9}, "num_times", "num_times must be at most 8 on this server, got 9"),
        ({"num_times": 0}, "num_times", "num_times must be >= 1, got 0"),
        ({"estimator": "mean"}, "estimator", "estimator must be 'times' or 'counts', got 'mean'"),
        ({"seed": -1}, "seed", "seed must be greater than or equal to 0, got -1"),
        ({"timeout_s": 0}, "timeout_s", "timeout_s must be > 0, got 0"),
        ({"timeout_s": 601}, "timeout_s", "timeout_s must be at most 600 on this server, got 601"),
        ({"model": "none"}, "model", "model must be one of the loaded checkpoints, "),
        ({"stream": False}, "stream", "stream is not a field of this request, got False"),
        (
            {"texts": ["w1 " * 30] * 2},
            None,
            "num_times 6 x 60 tokens of all texts, prefix and frame included, are 360 token",
        ),
    ],
)
def test_what_is_wrong_is_said_by_name(bounded: LiveServer, body: Any, param: str | None, message: str) -> None:
    content = json.dumps({"texts": TEXTS, "seed": 5, "num_times": 6} | body)
    answer = bounded.post("/score", None, content=content, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 422 and error["param"] == param
    assert error["message"].startswith(message)


def test_texts_must_be_given(live: LiveServer) -> None:
    answer = live.post("/score", {"num_times": 4})
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "texts must be given")


def test_counts_are_refused_where_noise_is_no_mask(live: LiveServer) -> None:
    answer = live.post("/score", {"texts": TEXTS, "model": "hybrid", "estimator": "counts"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "estimator must be times for the hybrid process, got 'counts'"


def test_limits_are_told_and_bring_a_default_down(bounded: LiveServer) -> None:
    document = bounded.get("/openapi.json").json()["components"]["schemas"]["ScoreRequest"]["properties"]
    assert (document["texts"]["maxItems"], document["texts"]["minItems"]) == (3, 1)
    assert (document["num_times"]["maximum"], document["num_times"]["default"]) == (8, 8)
    limits = bounded.get("/info").json()["limits"]
    assert (limits["max_num_texts"], limits["max_num_times"]) == (3, 8)
    assert bounded.post("/score", {"texts": ["w1"]}).json()["num_times"] == 8


def test_the_time_of_a_request_is_bounded_and_its_rows_are_freed(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.05)
    with serving({"absorbing": checkpoint}, max_batch_tokens=4) as server:
        answer = server.post("/score", {"texts": TEXTS, "timeout_s": 0.2})
        assert (answer.status_code, answer.json()["error"]["type"]) == (504, "timeout")
        wait_until(lambda: server.engine.jobs.rows == 0, timeout_s=1)


def test_a_client_that_leaves_gives_its_rows_back(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.05)
    with serving({"absorbing": checkpoint}, max_batch_tokens=4) as server:
        address, body = urlsplit(server.url), json.dumps({"texts": TEXTS, "num_times": 200}).encode()
        with socket.create_connection((address.hostname, address.port), timeout=10) as client:
            head = f"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            wait_until(lambda: denoiser.calls > 1)
            assert server.engine.jobs.rows == 600
        wait_until(lambda: server.engine.jobs.rows == 0)
        assert denoiser.calls < 60


def test_a_text_that_the_network_cannot_bear_fails_its_request_alone(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["uniform"])
    denoiser.poison = checkpoint.tokenizer.convert_tokens_to_ids("w3")  # type: ignore[assignment]
    with serving({"uniform": checkpoint}) as server:
        answer = server.post("/score", {"texts": ["w1", "w2"], "prefix": "w3"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal")
        wait_until(lambda: server.engine.idle)
        denoiser.poison = -1
        assert ask(server)["ranking"]


def test_scored_tokens_are_not_made_and_evaluations_are_counted(
    tiny: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    with serving({"absorbing": tiny["absorbing"]}) as server:
        told, metrics = ask(server), server.get("/metrics").text
        lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        by_name = {name.partition("{")[0]: float(value) for name, value in lines.items() if "absorbing" in name}
        assert by_name["td_tokens_total"] == 0 and by_name["td_nfe_total"] == told["usage"]["nfe"]
