"""MDLM (arXiv 2406.07524): `kuleshov-group/mdlm-owt` and its variants, an absorbing DiT over GPT-2's tokens.

Its time input is there and always told 0, so that the condition is one of the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from . import dit
from .published import Published


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of such a folder; None for another."""
    if config.get("model_type") != "mdlm":
        return None
    vocab_size = config["vocab_size"]
    network = dit.config(
        vocab_size,
        config["hidden_dim"],
        config["n_blocks"],
        config["model_length"],
        num_attention_heads=config["n_heads"],
        cond_dim=config["cond_dim"],
        dropout=config.get("dropout", 0.0),
        time_conditioning="sigma" if config.get("time_conditioning", False) else "zero",
    )
    return Published(
        "mdlm",
        network,
        dit.weights,
        scheduler={"vocab_size": vocab_size, "mask_token_id": vocab_size - 1, "forward_process": "absorbing"},
        prefix=("bos",),
        learnt=("eos",),
        tokenizer="gpt2",
        tokenizer_size=vocab_size - 1,
    )
