"""GIDD (arXiv 2503.04482): `dvruette/gidd-small-p_unif-*` and `gidd-base-p_unif-*`, a hybrid DiT over GPT-2's tokens.

It is told t itself. Its tokenizer is in the folder, with a mask after GPT-2's tokens, since v1.1.0 of the authors' code after a
padding token, too. That code rounds the vocabulary of what it trains up to a multiple of 128; the rows past the tokenizer are of
no token, and noise never lands there, so that they are left out here, which also gives uniform noise its right number of states.

The process is that of the paper and of v1.1.0. What was released before was trained with an earlier form of it, whose share of
uniform noise differs by parts of 1 / V.

Documents begin and end with GPT-2's end token, but longer ones are windows of which neither end need show: there is no frame.
Padding was noised and learnt as any other token.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....diffusion.values import check_int
from ....errors import ParameterError
from ..published import Published
from . import layout

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "cond_dim": "timestep_cond_dim",
    "max_position_embeddings": "max_seq_len",
    "dropout": "attention_dropout",
}
"""Our names and theirs."""

ROUNDED = {50304: 50259}
"""Of a vocabulary that is rounded up in config.json, too, its tokens: GPT-2's, `[PAD]` and `[MASK]`."""


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of such a folder; None for another."""
    if config.get("model_type") != "dit" or "p_uniform" not in config:
        return None
    check_int("vocab_size", config["vocab_size"], 2)
    vocab_size = ROUNDED.get(config["vocab_size"], config["vocab_size"])
    network = layout.from_sizes(config, SIZES, time_conditioning="t", vocab_size=vocab_size)
    return Published(
        "gidd",
        network,
        partial(_weights, vocab_size),
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


def _weights(vocab_size: int, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ours, from theirs: rows of the tokens alone, without tables, and without `logit_bias`, which no published network has."""
    kept = dict(theirs)
    if (bias := kept.pop("logit_bias", None)) is not None and bool(bias.any()):
        raise ParameterError("logit_bias", "be 0", bias.flatten().tolist())
    for name, turned in (("rotary_emb.cos_cached", torch.cos), ("rotary_emb.sin_cached", torch.sin)):
        if (table := kept.pop(name, None)) is not None:
            _check_table(name, table, turned)
    for name in ("vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias"):
        if name in kept:
            kept[name] = kept[name][:vocab_size]
    return layout.weights(kept, prefix="")


def _check_table(name: str, table: Tensor, turned: Callable[[Tensor], Tensor]) -> None:
    """Their network turns by the table that the file holds, [1, L, 3, 1, D], ours by the frequencies that it was made of."""
    half = table.shape[-1] // 2
    angles = torch.arange(table.shape[1]).unsqueeze(1) * layout.ROPE_THETA ** -(torch.arange(half) / half)
    if not torch.allclose(table[0, :, 0, 0, :half].float(), turned(angles), atol=1e-2):
        raise ParameterError(name, f"be of powers of {layout.ROPE_THETA:g}", list(table.shape))
