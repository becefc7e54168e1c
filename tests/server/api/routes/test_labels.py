"""Labels over the wire: they decide the tokens as a seed does, and a model without them, or with fewer, refuses them by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.live_server import LiveServer, serving, tokens_of
from tests.tiny import save_labelled
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run, score
from token_diffusion_client import Client

pytest_plugins = ["tests.server_fixtures"]

BODY: dict[str, Any] = {"model": "labelled", "seq_len": 12, "num_inference_steps": 6, "seed": 3, "num_samples": 2}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(save_labelled(tmp_path_factory.mktemp("labelled") / "labelled"))


@pytest.fixture(scope="module")
def shop(tiny: Mapping[str, Checkpoint], labelled: Checkpoint) -> Iterator[LiveServer]:
    with serving({**tiny, "labelled": labelled}) as server:
        yield server


def test_a_label_decides_the_tokens_alone_and_among_others(shop: LiveServer, labelled: Checkpoint) -> None:
    def expected(label: int | None) -> list[list[int]]:
        parameters = SamplingParameters(12, 2, 6, seed=3, label=label)
        tokens: list[list[int]] = run(labelled.denoiser, labelled.scheduler, parameters).sequences.tolist()
        return tokens

    def ask(label: int | None) -> Any:
        with Client(shop.url) as client:
            return client.sample(**BODY, label=label)

    labels = [None, 0, 1, 2] * 3
    with ThreadPoolExecutor(len(labels)) as pool:
        answers = list(pool.map(ask, labels))
    assert [[list(each.tokens) for each in answer.samples] for answer in answers] == list(map(expected, labels))
    assert len({str(expected(label)) for label in labels}) == 4


def test_null_is_no_label_and_blocks_have_one_too(shop: LiveServer) -> None:
    plain, null = (shop.post("/sample", BODY | fields | {"stream": False}).json() for fields in ({}, {"label": None}))
    assert tokens_of(plain) == tokens_of(null)
    blocks = [
        shop.post("/sample/block", BODY | {"stream": False, "block_size": 4, "label": label}).json()
        for label in (0, 1)
    ]
    assert tokens_of(blocks[0]) != tokens_of(blocks[1])


def test_completions_may_have_one(shop: LiveServer) -> None:
    fields = {"model": "labelled", "prompt": "w1", "max_tokens": 8, "seed": 1}
    texts = [
        shop.post("/v1/completions", fields | {"label": label}).json()["choices"][0]["text"] for label in (0, 1, 2)
    ]
    assert len(set(texts)) == 3


def test_scores_are_conditional_on_it(shop: LiveServer, labelled: Checkpoint) -> None:
    tokens = labelled.tokenizer("w1 w2 w3")["input_ids"]
    for label in (None, 2):
        with Client(shop.url) as client:
            found = client.score(["w1 w2 w3", "w3 w2"], model="labelled", seed=4, label=label)
        (alone,) = score(labelled.denoiser, labelled.scheduler, [tokens], labels=[label], seed=4)
        assert found.scores[0].nats == pytest.approx(alone.nats, rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"label": 3}, "label must be below 3, the model's num_classes, got 3"),
        ({"label": -1}, "label must be in [0, 2147483648), got -1"),
        ({"label": 1.5}, "label must be a valid integer, got 1.5"),
        ({"label": "1"}, "label must be a valid integer, got '1'"),
        ({"label": True}, "label must be a valid integer, got True"),
        (
            {"label": 0, "model": "uniform"},
            "label must be absent, as the model knows no labels (its num_classes is 0), got 0",
        ),
    ],
)
@pytest.mark.parametrize("path", ["/sample", "/sample/block", "/score", "/v1/completions"])
def test_a_label_that_cannot_be_is_refused_by_name(
    shop: LiveServer, path: str, fields: dict[str, Any], why: str
) -> None:
    bodies: dict[str, Any] = {"/score": {"texts": ["w1 w2"]}, "/v1/completions": {"prompt": "w1"}}
    answer = shop.post(path, bodies.get(path, {"seq_len": 8}) | {"model": "labelled"} | fields)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["message"]) == ("label", why)
