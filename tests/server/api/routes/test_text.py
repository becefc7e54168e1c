"""The endpoints that know tokens: a client learns from them what the server would make of its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx2
import pytest

from tests.live_server import LiveServer, serving
from tests.tiny import byte_tokenizer, save_tiny
from token_diffusion import __version__
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.facts import Facts, Frame

pytest_plugins = ["tests.server_fixtures"]

NASTY = "a\x00b \u202ede\u202c <script> [MASK] \u4e2d\U0001f469"


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    facts = Facts(Frame((2,), (3,)), known=True)
    folder = save_tiny(
        tmp_path_factory.mktemp("framed") / "bytes", "absorbing", tokenizer=byte_tokenizer(), facts=facts
    )
    return load_checkpoint(folder, name="org/bytes")


@pytest.fixture(scope="module")
def served(tiny: Mapping[str, Checkpoint], framed: Checkpoint) -> Iterator[LiveServer]:
    checkpoints = {"absorbing": tiny["absorbing"], framed.name: framed}
    with serving(checkpoints, api_key="secret", max_seq_len=64, max_body_bytes=8192) as server:
        yield server


def ask(server: LiveServer, path: str, body: Any) -> Any:
    answer = server.post(path, body, headers={"Authorization": "Bearer secret"})
    return answer.json() if answer.status_code == 200 else answer.json()["error"]


@pytest.mark.parametrize("text", ["the cat sat on the mat", NASTY, ""])
def test_tokens_and_back(served: LiveServer, framed: Checkpoint, text: str) -> None:
    told = ask(served, "/tokenize", {"prompt": text, "model": framed.name})
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert not {0, 2, 3, 4} & set(told["tokens"])  # what is typed is text
    around = ask(served, "/tokenize", {"prompt": text, "model": framed.name, "add_frame": True})
    assert around["tokens"] == [2, *told["tokens"], 3] and around["token_strs"][0] == "[CLS]"
    for tokens in (told["tokens"], around["tokens"]):
        back = ask(served, "/detokenize", {"tokens": tokens, "model": framed.name})
        assert back == {"model": framed.name, "prompt": text}


def test_the_tokens_are_those_of_a_prompt_and_the_strings_those_of_the_vocabulary(served: LiveServer) -> None:
    told = ask(served, "/tokenize", {"prompt": "w1 w2 nonsense"})
    done = ask(served, "/sample", {"prompt": "w1 w2 nonsense", "seq_len": 5, "stream": False})
    assert done["samples"][0]["tokens"][:3] == told["tokens"]
    assert (told["model"], told["max_model_len"]) == ("absorbing", 64)
    vocabulary = served.get("/models/absorbing/tokens", headers={"Authorization": "Bearer secret"}).json()
    assert told["token_strs"] == [vocabulary["pieces"][id] for id in told["tokens"]] == ["w1", "w2", "[UNK]"]
    assert ask(served, "/detokenize", {"tokens": [*told["tokens"], 4]})["prompt"] == "w1 w2 [MASK]"


def test_what_is_longer_than_the_model_is_counted_all_the_same(served: LiveServer) -> None:
    assert ask(served, "/tokenize", {"prompt": "w1 " * 1000})["count"] == 1000


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("/tokenize", {}, "prompt", "prompt must"),
        ("/tokenize", {"prompt": None}, "prompt", "got None"),
        ("/tokenize", {"prompt": "abcde " * 1330}, "prompt", "'7980 characters'"),
        ("/tokenize", {"prompt": "a", "model": "no such"}, "model", "be one of the loaded checkpoints"),
        ("/tokenize", {"prompt": "a", "add_frame": 1}, "add_frame", "got 1"),
        ("/tokenize", {"prompt": "a", "frame": True}, "frame", "is not a field"),
        ("/detokenize", {}, "tokens", "tokens must"),
        ("/detokenize", {"tokens": "w1"}, "tokens", "got 'w1'"),
        ("/detokenize", {"tokens": [1, "2"]}, "tokens.1", "got '2'"),
        ("/detokenize", {"tokens": [1, True]}, "tokens.1", "got True"),
        ("/detokenize", {"tokens": [50]}, "tokens", "hold token ids in [0, 50), got 50"),
        ("/detokenize", {"tokens": [-1]}, "tokens", "got -1"),
        ("/detokenize", {"tokens": [2**70]}, "tokens", f"got {2**70}"),
        ("/detokenize", {"tokens": [7] * 65}, "tokens", "at most 64 ids on this server, got '65 ids'"),
        ("/detokenize", {"tokens": [[]] * 2000}, "tokens.0", "got []"),
    ],
)
def test_nonsense_is_refused_by_name(served: LiveServer, path: str, body: Any, param: str, message: str) -> None:
    error = ask(served, path, body)
    assert (error["code"], error["param"]) == (422, param) and message in error["message"], error
    assert len(error["message"]) < 400


def test_half_a_surrogate_pair_is_refused(served: LiveServer) -> None:
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    answer = httpx2.post(f"{served.url}/tokenize", content=rb'{"prompt": "\ud800"}', headers=headers)
    assert answer.status_code == 422 and answer.json()["error"]["param"] == "prompt"


def test_the_vocabulary_of_a_model(served: LiveServer, framed: Checkpoint) -> None:
    path, key = f"/models/{framed.name}/tokens", {"Authorization": "Bearer secret"}
    answer = served.get(path, headers=key)
    told = answer.json()
    assert (told["model"], told["vocab_size"], told["mask_token_id"]) == (framed.name, len(told["pieces"]), 4)
    assert (
        told["special_token_ids"] == [0, 1, 2, 3, 4] and told["pieces"][:5][4] == "[MASK]" and " the" in told["pieces"]
    )
    assert answer.headers["cache-control"].startswith("private, max-age=")
    tag = answer.headers["etag"]
    for kept in (tag, f'"x", W/{tag}', "*"):
        again = served.get(path, headers=key | {"If-None-Match": kept})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert served.get(path, headers=key | {"If-None-Match": '"x"'}).content == answer.content
    other = served.get("/models/absorbing/tokens", headers=key)
    assert other.headers["etag"] != tag and other.json()["vocab_size"] == 50


def test_who_may_know_it(served: LiveServer) -> None:
    for path in ("/models/absorbing/tokens", "/version", "/models/no such/tokens"):
        assert served.get(path).status_code == 401
    key = {"Authorization": "Bearer secret"}
    assert served.get("/version", headers=key).json() == {"version": __version__}
    missing = served.get("/models/no%20such/tokens", headers=key)
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found")
    assert httpx2.head(f"{served.url}/version", headers=key).status_code == 405
