"""Duo's folders, whose config.json knows a causal kind, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.token_diffusion.networks.families.dit_folders import load
from tests.token_diffusion.networks.families.recording import recording
from token_diffusion import ParameterError
from token_diffusion.facts import Frame
from token_diffusion.networks.families import duo


def test_the_published_network() -> None:
    config = recording("duo").config | {"vocab_size": 50258, "model_length": 1024}
    known = duo.read(config, ())
    assert known is not None and known.config.time_conditioning == "sigma"
    assert known.scheduler["forward_process"] == "uniform" and not known.scheduler["exclude_mask_from_uniform"]
    assert (known.scheduler["mask_token_id"], known.tokenizer) == (50257, "gpt2")
    assert (known.prefix, known.learnt) == (("bos",), ("eos",))


def test_text_begins_after_an_end_token_and_ends_at_one(tmp_path: Path) -> None:
    facts = load(tmp_path, "duo").facts
    assert facts.frame == Frame((59,), ()) and facts.learnt == {59}


@pytest.mark.parametrize("written", ["DUO", "duo"])
def test_its_name_is_written_either_way(written: str) -> None:
    assert duo.read(recording("duo").config | {"model_type": written}, ()) is not None
    assert duo.read(recording("duo").config | {"model_type": "dual"}, ()) is None
    assert duo.read({}, ()) is None


def test_a_causal_one_is_refused() -> None:
    with pytest.raises(ParameterError, match="causal must be false"):
        duo.read(recording("duo").config | {"causal": True}, ())
