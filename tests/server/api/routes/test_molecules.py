"""A model of SMILES over the wire: tokens without spaces, holes in brackets and rings, text that ends before its tokens do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.live_server import LiveServer, done_of, faked, replay, serving, tokens_of
from tests.tiny import save_smiles
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from trainer.data.tokenizer import SPECIAL_TOKENS

MOLECULES = ["CC(=O)Oc1ccccc1C(=O)O", "C[C@@H](N)C(=O)[O-]", "ClCBr", "[nH]1cccc1"]


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """All tokens are as likely, control tokens too."""
    folder = save_smiles(tmp_path_factory.mktemp("molecules") / "molecules", MOLECULES)
    return faked(load_checkpoint(folder))[0]


@pytest.fixture(scope="module")
def served(molecules: Checkpoint) -> Iterator[LiveServer]:
    with serving({"molecules": molecules}) as server:
        yield server


def ask(server: LiveServer, path: str, **body: Any) -> Any:
    answer = server.post(path, body)
    return answer.json() if answer.status_code == 200 else answer.json()["error"]


@pytest.mark.parametrize("text", MOLECULES)
def test_tokens_and_back(served: LiveServer, text: str) -> None:
    told = ask(served, "/tokenize", prompt=text)
    assert "".join(told["token_strs"]) == text and ask(served, "/detokenize", tokens=told["tokens"])["prompt"] == text
    pieces = served.get("/models/molecules/tokens").json()["pieces"]
    assert [pieces[token] for token in told["tokens"]] == told["token_strs"]


def test_holes_are_filled_and_what_is_given_stays(served: LiveServer) -> None:
    (sample,) = ask(served, "/sample", template="CC(=[MASK])Oc1cccc[MASK]1", seed=1, stream=False)["samples"]
    start, end = sample["text"].split(")Oc1cccc")
    assert start.startswith("CC(=") and end.endswith("1") and " " not in sample["text"]


def test_a_molecule_ends_before_its_tokens_do(served: LiveServer, molecules: Checkpoint) -> None:
    events = served.events("/sample", {"seq_len": 32, "num_samples": 8, "seed": 2, "include_text": True})
    done = done_of(events)
    assert replay(events) == tokens_of(done)
    ended = [each for each in done["samples"] if each["finish_reason"] == "stop"]
    assert ended and not any(" " in each["text"] for each in done["samples"])
    for each in ended:
        text = each["tokens"][1 : each["tokens"].index(3)]
        names = molecules.tokenizer.convert_ids_to_tokens(text)
        assert each["text"] == "".join(name for name in names if name not in SPECIAL_TOKENS)


def test_a_prompt_is_gone_on_with_and_a_typed_mask_refused(served: LiveServer) -> None:
    (sample,) = ask(served, "/sample", prompt="C[C@@H](N)", seq_len=16, seed=3, stream=False)["samples"]
    assert sample["text"].startswith("C[C@@H](N)")
    assert "hold no '[MASK]'" in ask(served, "/sample", prompt="C[MASK]", seq_len=16, stream=False)["message"]
