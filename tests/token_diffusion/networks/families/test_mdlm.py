"""MDLM's folders: which there are, and how their sequences were framed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.token_diffusion.networks.families.dit_folders import load, write_gpt2
from tests.token_diffusion.networks.families.recording import recording
from token_diffusion import ParameterError
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.checkpoint.tokenizer import load_tokenizer
from token_diffusion.facts import Facts, Frame
from token_diffusion.networks.families import Published, mdlm

OWT = {
    "model_type": "mdlm",
    "vocab_size": 50258,
    "model_length": 1024,
    "hidden_dim": 768,
    "cond_dim": 128,
    "n_blocks": 12,
    "n_heads": 12,
    "dropout": 0.1,
    "time_conditioning": False,
}
"""mdlm-owt's config.json, but for what transformers adds to any."""


def read(**changes: Any) -> Published:
    known = mdlm.read(OWT | changes, ())
    assert known is not None
    return known


def test_the_published_network() -> None:
    known = read()
    assert known.family == "mdlm"
    assert known.scheduler["mask_token_id"] == 50257 and known.scheduler["forward_process"] == "absorbing"
    assert (known.tokenizer, known.tokenizer_size) == ("gpt2", 50257)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    assert [getattr(known.config, size) for size in sizes] == [768, 12, 12, 3072, 1024]


def test_text_begins_after_an_end_token_and_ends_at_one(tmp_path: Path) -> None:
    facts = load(tmp_path, "mdlm").facts
    assert facts.frame == Frame((59,), ()) and facts.learnt == {59}


def test_a_folder_may_say_otherwise(tmp_path: Path) -> None:
    load(tmp_path, "mdlm")
    Facts(Frame(), frozenset({59})).write(tmp_path / "mdlm")
    facts = load_checkpoint(tmp_path / "mdlm", tokenizer_name=tmp_path / "mdlm-tokenizer").facts
    assert facts.frame == Frame() and facts.learnt == {59}


@pytest.mark.parametrize(
    "mark",
    [
        {"_name_or_path": "kuleshov-group/mdlm-noeos-owt"},
        {"auto_map": {"AutoModelForMaskedLM": "kuleshov-group/mdlm-owt-noeos--modeling_mdlm.MDLM"}},
    ],
)
def test_the_ones_without_end_tokens_around_have_no_frame(mark: dict[str, Any]) -> None:
    assert read(**mark).prefix == () and read(**mark).learnt == ("eos",)
    assert read(_name_or_path="kuleshov-group/mdlm-owt").prefix == ("bos",)


def test_one_that_is_told_the_time_is_told_sigma() -> None:
    assert read().config.time_conditioning == "zero"
    assert read(time_conditioning=True).config.time_conditioning == "sigma"


def test_another_model_type_is_not_read() -> None:
    assert mdlm.read(OWT | {"model_type": "bert"}, recording("mdlm").weights) is None
    with pytest.raises(KeyError, match="hidden_dim"):
        mdlm.read({"model_type": "mdlm", "vocab_size": 100, "d_model": 8}, ())


def test_a_tokenizer_with_padding_where_the_mask_is_may_be_given(tmp_path: Path) -> None:
    """MDLM's own loader adds [PAD] to GPT-2's, at the very id of the mask."""
    known = mdlm.read(recording("mdlm").config, ())
    tokenizer = AutoTokenizer.from_pretrained(write_gpt2(tmp_path / "gpt2", 60))
    assert load_tokenizer(tmp_path / "gpt2", known).mask_token_id == 60
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "padded")
    assert load_tokenizer(tmp_path / "padded", known).mask_token_id == 60
    tokenizer.add_special_tokens({"mask_token": "w3"})
    tokenizer.save_pretrained(tmp_path / "elsewhere")
    with pytest.raises(ParameterError, match="have the mask token 60 of its mdlm model, not 3"):
        load_tokenizer(tmp_path / "elsewhere", known)
