"""Dream (arXiv 2508.15487): `Dream-org/Dream-v0-Base-7B` and `-Instruct-7B`, a Qwen2 that sees everything, its logits shifted.

It came of a model that predicts the next token: what stands at a position is told by the one before it, where the first, BOS, is
always given. Its weights have Qwen2's names. Its tokenizer's class is code of the folder, Qwen2's by another name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from transformers import Qwen2Tokenizer

from ..bidirectional import BidirectionalQwen2Config
from .published import Keys, Published, check_architecture, check_positive, check_run

MASK_TOKEN_ID = 151666
CONTEXT, INHERITED = 2048, (32768, 131072)
"""How long sequences may be (README.md, `max_new_tokens`), and the lengths that config.json has from Qwen2, whoever wrote it."""

ENDS = ("eos", "<|im_end|>")

RUN: Keys = {
    "hidden_act": ("silu", ["silu"]),
    "use_sliding_window": (False, [False]),
    "rope_scaling": (None, [None]),
    "use_mrope": (False, [False]),
}
"""Of each key of config.json that makes another network: its value where it is not there, and those that are run here."""


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of such a folder; None for another."""
    if config.get("model_type") != "Dream":
        return None
    check_architecture(config, "DreamModel")
    check_run(config, RUN)
    check_positive(config, "num_attention_heads", "max_position_embeddings", "rope_theta")
    return Published(
        "dream",
        _network(config),
        dict,
        scheduler={
            "vocab_size": config["vocab_size"],
            "mask_token_id": config.get("mask_token_id", MASK_TOKEN_ID),
            "forward_process": "absorbing",
            "alpha_schedule": "linear",
        },
        prefix=("bos",),
        learnt=ENDS,
        ends=ENDS,
        tokenizer_class=Qwen2Tokenizer,
        mask_token="<|mask|>",
    )


def _network(config: Mapping[str, Any]) -> BidirectionalQwen2Config:
    length = config["max_position_embeddings"]
    return BidirectionalQwen2Config(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        max_position_embeddings=CONTEXT if length in INHERITED else length,
        rms_norm_eps=config["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        attention_dropout=config.get("attention_dropout", 0.0),
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        shift_logits=True,
        bos_token_id=config.get("bos_token_id"),
        eos_token_id=config.get("eos_token_id"),
        pad_token_id=None,  # theirs is EOS, whose embedding is learnt
    )
