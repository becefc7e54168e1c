"""BD3-LM (arXiv 2503.09573): `kuleshov-group/bd3lm-owt-block_size{4,8,16}`, and `block_size1024-pretrain`, which they began from.

An absorbing DiT over GPT-2's tokens, block-causal: what its training shows it, noisy blocks beside clean ones, is not needed to
sample from it. Where one block is as long as a sequence may be, all positions see all, and it is an MDLM.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ....diffusion.values import check_bool, check_int
from ....errors import ParameterError
from ..published import Published
from . import layout

SWITCHES = {"adaln": True, "cross_attn": True, "time_conditioning": False}
"""What they are where config.json has no word of them."""

OF_TRAINING = {"sampling_eps_min", "sampling_eps_max"}
"""Buffers beside the weights: between which shares of masks their training drew noise."""


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of such a folder; None for another."""
    if config.get("model_type") != "bd3lm":
        return None
    adaptive, block_causal, told = (config.get(name, default) for name, default in SWITCHES.items())
    for name in SWITCHES.keys() & config.keys():
        check_bool(name, config[name])
    if told:
        raise ParameterError("time_conditioning", "be false, as in all that were released", True)
    check_int("block_size", size := config["block_size"], 1)
    whole = not block_causal or size >= config["model_length"]
    blocks, time_conditioning = None if whole else size, "zero" if adaptive else "none"
    network = layout.from_sizes(config, time_conditioning=time_conditioning, causal_block_size=blocks)
    known = layout.vocabulary(network.vocab_size)
    return Published(
        "bd3lm",
        network,
        weights,
        scheduler={
            "vocab_size": network.vocab_size,
            "mask_token_id": known.mask_token_id,
            "forward_process": "absorbing",
            "alpha_schedule": "linear",
        },
        prefix=known.start,
        learnt=known.learnt,
        tokenizer=known.tokenizer,
        tokenizer_size=known.size,
    )


def weights(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for their weights."""
    return layout.weights({name: tensor for name, tensor in theirs.items() if name not in OF_TRAINING})
