"""GIDD (arXiv 2503.04482): `dvruette/gidd-small-p_unif-*` and `gidd-base-p_unif-*`, a hybrid DiT over GPT-2's tokens.

It is told t itself. Its tokenizer is in the folder, with a mask after GPT-2's tokens, since v1.1.0 of the authors' code after a
padding token, too. That code rounds the vocabulary of what it trains up to a multiple of 128; the rows past the tokenizer are of
no token, and noise never lands there, so that they are left out here, which also gives uniform noise its right number of states.

Documents begin and end with GPT-2's end token, but longer ones are windows of which neither end need show: there is no frame.
Padding was noised and learnt as any other token.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ...errors import ParameterError
from . import dit
from .published import Published

ROUNDED = {50304: 50259}
"""Of a vocabulary that is rounded up in config.json, too, its tokens: GPT-2's, `[PAD]` and `[MASK]`."""

CUT = ("vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias")


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of such a folder; None for another."""
    if config.get("model_type") != "dit" or "p_uniform" not in config:
        return None
    vocab_size = ROUNDED.get(config["vocab_size"], config["vocab_size"])
    network = dit.config(
        vocab_size,
        config["hidden_size"],
        config["num_hidden_layers"],
        config["max_seq_len"],
        num_attention_heads=config["num_attention_heads"],
        cond_dim=config["timestep_cond_dim"],
        dropout=config.get("attention_dropout", 0.0),
        time_conditioning="t",
    )

    def weights(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if (bias := theirs.get("logit_bias")) is not None and bool(bias.any()):
            raise ParameterError("logit_bias", "be 0, as the published network has none", bias.flatten().tolist())
        cut = {
            name: each[:vocab_size] if name in CUT else each for name, each in theirs.items() if name != "logit_bias"
        }
        return dit.weights(cut, prefix="")

    return Published(
        "gidd",
        network,
        weights,
        scheduler={
            "vocab_size": vocab_size,
            "mask_token_id": vocab_size - 1,
            "forward_process": "hybrid",
            "p_uniform": config["p_uniform"],
            "t_eps": config.get("t_eps", 1e-4),
        },
        learnt=("eos", "pad"),
        tokenizer_size=vocab_size - 1,
    )
