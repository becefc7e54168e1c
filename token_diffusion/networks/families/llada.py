"""LLaDA (arXiv 2502.09992): `GSAI-ML/LLaDA-8B-Base`, `-Instruct` and `LLaDA-1.5`, a Llama with OLMo's names that sees everything.

A token is masked with probability p and its loss weighed by 1 / p (GUIDELINES.md): the linear schedule, whose p is t. The network
is not told the time, its logits are not shifted. Nothing frames a text (the chat template begins with BOS itself); an answer ends
with `<|eot_id|>`, and EOS, which is learnt, fills what is left of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ..bidirectional import BidirectionalLlamaConfig
from .published import Keys, Published, check_architecture, check_positive, check_run

MASK_TOKEN_ID = 126336
"""Of the released models (generate.py), where config.json has no word of it."""

RUN: Keys = {
    "block_type": ("sequential", ["llama"]),
    "activation_type": ("swiglu", ["silu"]),
    "layer_norm_type": ("default", ["rms"]),
    "layer_norm_with_affine": (True, [True]),
    "bias_for_layer_norm": (None, [False, None]),
    "attention_layer_norm": (False, [False]),
    "include_bias": (False, [False]),
    "include_qkv_bias": (False, [False, None]),
    "rope": (False, [True]),
    "alibi": (False, [False]),
    "input_emb_norm": (False, [False]),
    "scale_logits": (False, [False]),
    "block_group_size": (1, [1]),
}
"""Of each key of config.json that makes another network: its value where it is not there, and those that are run here."""

ENDS = ("eos", "<|eot_id|>")
"""126081 and 126348 of the released models; the base's tokenizer may lack the second."""

LAYER = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
REST = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of such a folder; None for another."""
    if config.get("model_type") != "llada":
        return None
    check_architecture(config, "LLaDAModelLM")
    check_run(config, RUN)
    check_positive(config, "n_heads", "max_sequence_length", "rope_theta")
    width = config["embedding_size"] or config["vocab_size"]
    return Published(
        "llada",
        _network(config, width),
        weights,
        scheduler={
            "vocab_size": width,
            "mask_token_id": config.get("mask_token_id", MASK_TOKEN_ID),
            "forward_process": "absorbing",
            "alpha_schedule": "linear",
        },
        learnt=ENDS,
        ends=ENDS,
        mask_token="<|mdm_mask|>",
    )


def _network(config: Mapping[str, Any], width: int) -> BidirectionalLlamaConfig:
    """Its rows of embeddings beyond `vocab_size` are there, too, and are no tokens."""
    heads = config["n_heads"]
    few = 1 if config.get("multi_query_attention") else heads
    return BidirectionalLlamaConfig(
        vocab_size=width,
        hidden_size=config["d_model"],
        intermediate_size=config.get("mlp_hidden_size") or config["mlp_ratio"] * config["d_model"],
        num_hidden_layers=config["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("n_kv_heads") or few,
        max_position_embeddings=config["max_sequence_length"],
        rms_norm_eps=config["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        attention_dropout=config.get("attention_dropout", 0.0),
        tie_word_embeddings=config["weight_tying"],
        bos_token_id=None,
        eos_token_id=config.get("eos_token_id"),
        pad_token_id=None,  # theirs is EOS, whose embedding is learnt
    )


def weights(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Llama's names for them."""
    return {_renamed(name): tensor for name, tensor in theirs.items()}


def _renamed(name: str) -> str:
    if found := re.fullmatch(rf"model\.transformer\.blocks\.(\d+)\.({'|'.join(LAYER)})\.weight", name):
        return f"model.layers.{found[1]}.{LAYER[found[2]]}.weight"
    if found := re.fullmatch(rf"model\.transformer\.({'|'.join(REST)})\.weight", name):
        return f"{REST[found[1]]}.weight"
    return name
