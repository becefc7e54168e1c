"""Where a sample's text ends, and canvases that come as ids, over the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.live_server import LiveServer, done_of, faked, replay, serving, tokens_of
from tests.tiny import byte_tokenizer, save_tiny
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.facts import Facts, Frame
from token_diffusion.text import decode

pytest_plugins = ["tests.server_fixtures"]

CLS, SEP, MASK = 2, 3, 4
BODY: dict[str, Any] = {"prompt": "the cat", "seq_len": 48, "num_inference_steps": 8, "seed": 3, "num_samples": 4}


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Bytes in a frame whose end token is learnt; all tokens but control tokens are as likely."""
    facts = Facts(Frame((CLS,), (SEP,)), frozenset({SEP}), known=True)
    folder = save_tiny(tmp_path_factory.mktemp("framed") / "m", "absorbing", tokenizer=byte_tokenizer(), facts=facts)
    return faked(load_checkpoint(folder))[0]


@pytest.fixture(scope="module")
def served(framed: Checkpoint, tiny: Mapping[str, Checkpoint]) -> Iterator[LiveServer]:
    with serving({framed.name: framed, "uniform": tiny["uniform"]}, max_seq_len=512) as server:
        yield server


def ask(server: LiveServer, **fields: Any) -> Any:
    answer = server.post("/sample", BODY | {"stream": False} | fields)
    return answer.json() if answer.status_code == 200 else answer.json()["error"]


def test_a_stop_string_cuts_the_text_and_leaves_the_tokens(served: LiveServer) -> None:
    whole = ask(served)
    texts = [sample["text"] for sample in whole["samples"]]
    stop = texts[0][12:14]
    cut = ask(served, stop=[stop, "no such text"])
    assert tokens_of(cut) == tokens_of(whole)
    for text, sample in zip(texts, cut["samples"], strict=True):
        at = text.find(stop, len(BODY["prompt"]) - 1)
        assert sample["text"] == (text if at < 0 else text[:at])
        assert at < 0 or sample["finish_reason"] == "stop"
    assert cut["samples"][0]["text"] == texts[0][: texts[0].find(stop, len(BODY["prompt"]) - 1)]
    assert cut["usage"] == whole["usage"] and cut["usage"]["completion_tokens"] == 4 * (
        48 - 2 - cut["usage"]["prompt_tokens"]
    )


def test_a_learnt_end_token_ends_the_text(served: LiveServer) -> None:
    fields = {"seq_len": 200, "num_samples": 16, "prompt": None, "seed": 1}
    done = ask(served, **fields)
    reasons = []
    for sample in done["samples"]:
        inside = sample["tokens"][1:-1]
        end = inside.index(SEP) if SEP in inside else None
        assert sample["text"] == decode(byte_tokenizer(), inside[:end])
        reasons.append("length" if end is None else "stop")
    assert [sample["finish_reason"] for sample in done["samples"]] == reasons
    assert set(reasons) == {"stop", "length"} and done["finish_reason"] == "length"
    first = reasons.index("stop")
    assert ask(served, **fields | {"num_samples": 1 + first})["samples"][first] == done["samples"][first]


def test_stop_as_it_is_told_to_a_stream_and_to_who_comes_back(served: LiveServer) -> None:
    body = BODY | {"stop": "c", "include_text": True, "on_disconnect": "keep", "num_samples": 1, "prompt": ""}
    events = served.events("/sample", body)
    done = done_of(events)
    whole = decode(byte_tokenizer(), tokens_of(done)[0])
    assert json.loads(events[-2].data)["text"] == [whole]  # the state is the canvas, whole
    assert replay(events) == tokens_of(done)
    assert (done["samples"][0]["text"], done["finish_reason"]) == (
        whole.partition("c")[0],
        "stop" if "c" in whole else "length",
    )
    status = served.get(f"/requests/{done['id']}").json()
    assert status["done"] == done


def test_ids_are_the_text_that_they_spell(served: LiveServer) -> None:
    ids = served.post("/tokenize", {"prompt": BODY["prompt"]}).json()["tokens"]
    assert tokens_of(ask(served, prompt=None, prompt_ids=ids)) == tokens_of(ask(served))
    of_text = ask(served, prompt=None, template="the [MASK]cat", seq_len=30)
    spelled = [*served.post("/tokenize", {"prompt": "the "}).json()["tokens"], MASK]
    spelled += served.post("/tokenize", {"prompt": "cat"}).json()["tokens"]
    assert tokens_of(ask(served, prompt=None, template_ids=spelled, seq_len=30)) == tokens_of(of_text)


def test_the_length_of_ids_is_that_of_the_sample_in_its_frame(served: LiveServer) -> None:
    body = {key: value for key, value in BODY.items() if key not in ("seq_len", "prompt")}
    done = served.post("/sample", body | {"stream": False, "template_ids": [7, MASK, SEP, MASK, 9]}).json()
    for tokens in tokens_of(done):
        assert [tokens[index] for index in (0, 1, 3, 5, 6)] == [CLS, 7, SEP, 9, SEP] and len(tokens) == 7
    assert done["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"stop": ""}, "stop", "stop must hold no empty string, got ''"),
        ({"stop": ["a", ""]}, "stop", "no empty string"),
        ({"stop": ["a"] * 17}, "stop", "hold at most 16 strings"),
        ({"stop": 5}, "stop", "got 5"),
        ({"stop": ["a", 5]}, "stop.1", "got 5"),
        ({"stop": {"a": 1}}, "stop", "stop must"),
        ({"prompt_ids": [5], "prompt": "a"}, "prompt_ids", "be absent where prompt is given, got [5]"),
        (
            {"prompt": None, "prompt_ids": [5], "template_ids": [4]},
            "template_ids",
            "be absent where prompt_ids is given",
        ),
        ({"prompt": None, "prompt_ids": [MASK]}, "prompt_ids", "hold no mask token, as template_ids may, got 4"),
        ({"prompt": None, "prompt_ids": [279]}, "prompt_ids", "hold token ids in [0, 279), got 279"),
        ({"prompt": None, "prompt_ids": [2**63]}, "prompt_ids", f"got {2**63}"),
        ({"prompt": None, "template_ids": [-1]}, "template_ids", "got -1"),
        ({"prompt": None, "template_ids": [4] * 47}, "template_ids", "fit into seq_len = 48 tokens, 2 of which are"),
        ({"prompt": None, "prompt_ids": ["5"]}, "prompt_ids.0", "got '5'"),
        ({"prompt": None, "prompt_ids": 5}, "prompt_ids", "got 5"),
        ({"prompt": None, "prompt_ids": [[]] * 3000}, "prompt_ids.0", "got []"),
    ],
)
def test_nonsense_is_refused_by_name(served: LiveServer, fields: Any, param: str, message: str) -> None:
    error = ask(served, **fields)
    assert (error.get("code"), error["param"]) == (422, param) and message in error["message"], error


def test_a_template_of_ids_is_as_long_as_the_server_allows(served: LiveServer) -> None:
    body = {"stream": False, "template_ids": [MASK] * 511}
    error = served.post("/sample", body).json()["error"]
    assert (error["param"], error["message"]) == ("seq_len", "seq_len must be at most 512 on this server, got 513")
