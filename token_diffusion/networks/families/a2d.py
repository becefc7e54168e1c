"""Networks that learnt to predict the next token, then to fill in: dLLM's a2d kinds, DiffuGPT, DiffuLLaMA (arXiv 2410.17891).

dLLM (`dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1`) takes a Llama, a Qwen2 or a Qwen3, lets every layer see every position, those of
a sliding window too, and reads a position's logits where it is. DiffuGPT (`diffusionfamily/diffugpt-s`, `-m`) and DiffuLLaMA
keep what the network learnt first: a position's logits are those of the position before it, and the first, BOS, is always given.
None is told the time, and the noise is linear: at t a token is a mask with probability t.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GPT2Tokenizer, PreTrainedConfig

from ...diffusion.values import check_int
from ..bidirectional import (
    BidirectionalGPT2Config,
    BidirectionalLlamaConfig,
    BidirectionalQwen2Config,
    BidirectionalQwen3Config,
)
from ..weights.files import weight_shapes
from .published import Published, check_positive, tokenizer_says

A2D: dict[str, tuple[type[PreTrainedConfig], tuple[str, ...]]] = {
    "a2d-llama": (BidirectionalLlamaConfig, ("<|eot_id|>", "<|end_of_text|>")),
    "a2d-qwen2": (BidirectionalQwen2Config, ("<|im_end|>", "<|endoftext|>")),
    "a2d-qwen3": (BidirectionalQwen3Config, ("<|im_end|>", "<|endoftext|>")),
}
"""What runs each of dLLM's kinds here; the tokens that end a turn (dllm/utils/models.py), and that fill the rest of an answer."""

DIFFU: dict[str, tuple[type[PreTrainedConfig], str, str]] = {
    "gpt2": (BidirectionalGPT2Config, "transformer", "wte"),
    "llama": (BidirectionalLlamaConfig, "model", "embed_tokens"),
}
"""What runs a DiffuGPT and a DiffuLLaMA here, and what that calls its body and its embeddings."""

OF_THE_FOLDER = (
    "model_type",
    "architectures",
    "auto_map",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "_name_or_path",
)
"""Keys of config.json that say how to load it there."""

POSITIVE = ("max_position_embeddings", "n_positions", "rms_norm_eps", "rope_theta")
"""Keys whose wrong values would go unnoticed: attention makes a number of NaN, too."""

SMALL_MASK, LLAMA_MASK = 10541, 811
"""Ordinary tokens that DiffuGPT-S and DiffuLLaMA took for their masks (LLaMA-Factory/src/llamafactory/model/loader.py)."""

CAUSAL_MASK = re.compile(r".*\.attn\.(bias|masked_bias)")
"""Buffers of older GPT-2s."""


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of a folder of one of dLLM's kinds; None for another."""
    kind = config.get("model_type")
    if kind not in A2D:
        return None
    network, spelt = A2D[kind]
    ends = ("eos", *spelt)
    return Published(
        kind,
        _network(network, config, bool(config.get("shift_logits", config.get("right_shift_logits", False)))),
        dict,
        scheduler=_scheduler(config["vocab_size"]),
        learnt=ends,
        ends=ends,
        mask_token="<|mask|>",
    )


def read_diffu(config: Mapping[str, Any], names: Collection[str], folder: Path) -> Published | None:
    """What is known of a folder of a DiffuGPT or a DiffuLLaMA; None for another.

    Their config.json is that of the network that they came of. DiffuGPT's weights have names of their own; DiffuLLaMA's are
    Llama's, which it is told from by a tokenizer that has a mask token, or a config.json that names one.
    """
    kind = config.get("model_type")
    wrapped = any(name.startswith("denoise_model.") for name in names)
    named: int | None = config.get("mask_token_id")
    masked = kind == "llama" and (named is not None or tokenizer_says(folder, "mask_token") is not None)
    if kind not in DIFFU or not (wrapped or masked):
        return None
    network, body, embeddings = DIFFU[kind]
    width = weight_shapes(folder)["embed_tokens.weight" if wrapped else f"{body}.{embeddings}.weight"][0]
    if named is not None:
        check_int("mask_token_id", named, 0, width)
    small = width == config["vocab_size"]  # DiffuGPT-M has a row more than its config.json says
    usual = LLAMA_MASK if kind == "llama" else SMALL_MASK if small else width - 1
    mask = usual if named is None else named
    return Published(
        "diffullama" if kind == "llama" else "diffugpt",
        _network(network, {**config, "vocab_size": width}, shift_logits=True),
        partial(_renamed, body=body, embeddings=embeddings),
        scheduler=_scheduler(width),
        prefix=("bos",),
        learnt=("eos",),
        tokenizer="gpt2" if kind == "gpt2" else "Llama-2",
        tokenizer_class=GPT2Tokenizer if kind == "gpt2" else None,  # theirs may name a class of their training code
        mask_token=mask if named is not None or mask < width - 1 else "[¨M¨]",
    )


def _network(kind: type[PreTrainedConfig], config: Mapping[str, Any], shift_logits: bool) -> PreTrainedConfig:
    """The same sizes, no window in any layer."""
    check_positive(config, *(key for key in POSITIVE if config.get(key) is not None))
    sizes = {key: value for key, value in config.items() if key not in OF_THE_FOLDER}
    if "layer_types" in sizes or sizes.get("use_sliding_window"):
        sizes |= {"layer_types": ["full_attention"] * sizes["num_hidden_layers"]}
        sizes |= {"use_sliding_window": False, "sliding_window": None}
    return kind(
        **sizes | {"shift_logits": shift_logits, "pad_token_id": None}
    )  # a padding's embedding would learn nothing


def _scheduler(vocab_size: int) -> dict[str, Any]:
    """The mask is the tokenizer's."""
    return {"vocab_size": vocab_size, "forward_process": "absorbing", "alpha_schedule": "linear"}


def _renamed(theirs: Mapping[str, Tensor], body: str, embeddings: str) -> dict[str, Tensor]:
    """Names of the network that it came of, for those that the authors' wrapper gave."""
    ours = {}
    for name, tensor in theirs.items():
        if not CAUSAL_MASK.fullmatch(name):
            name = re.sub(r"^denoise_model\.", f"{body}.", name)
            ours[re.sub(r"^embed_tokens\.", f"{body}.{embeddings}.", name)] = tensor
    return ours
