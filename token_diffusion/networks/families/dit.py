"""What the formats that come of MDLM's DiT (mdlm/models/dit.py) have in common: sizes, and names of weights.

Blocks of rotary attention and a GELU MLP under adaptive norms, whose shift, scale and gate, of attention and of the MLP, come of
one fused layer; `TokenDiffusionForMaskedLM` has a layer for each norm and each gate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..transformer import TokenDiffusionConfig

MLP_RATIO = 4

NAMES = {
    r"vocab_embed\.embedding": "model.embed_tokens.weight",
    r"sigma_map\.mlp\.0\.(weight|bias)": r"model.embed_time.input.\1",
    r"sigma_map\.mlp\.2\.(weight|bias)": r"model.embed_time.output.\1",
    r"cond_map\.embedding_table\.weight": "model.embed_class.weight",
    r"blocks\.(\d+)\.norm1\.weight": r"model.blocks.\1.attention.norm.weight",
    r"blocks\.(\d+)\.norm2\.weight": r"model.blocks.\1.mlp.norm.weight",
    r"blocks\.(\d+)\.attn_qkv\.weight": r"model.blocks.\1.attention.branch.qkv.weight",
    r"blocks\.(\d+)\.attn_out\.weight": r"model.blocks.\1.attention.branch.output.weight",
    r"blocks\.(\d+)\.mlp\.0\.(weight|bias)": r"model.blocks.\1.mlp.branch.input.\2",
    r"blocks\.(\d+)\.mlp\.2\.(weight|bias)": r"model.blocks.\1.mlp.branch.output.\2",
    r"output_layer\.norm_final\.weight": "model.norm.weight",
    r"output_layer\.linear\.(weight|bias)": r"lm_head.\1",
}
"""Theirs, without what stands before all of them, and ours."""

COMPUTED = re.compile(r"rotary_emb\.\w+")
"""Buffers that follow from the sizes."""


def config(
    vocab_size: int, hidden_size: int, num_hidden_layers: int, length: int, **options: Any
) -> TokenDiffusionConfig:
    """The DiT of these sizes."""
    return TokenDiffusionConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        intermediate_size=MLP_RATIO * hidden_size,
        max_position_embeddings=length,
        mlp="gelu",
        head_bias=True,
        gate_offset=0.0,
        max_frequency=1.0,
        tie_word_embeddings=False,
        **options,
    )


def weights(theirs: Mapping[str, Tensor], prefix: str = "backbone.") -> dict[str, Tensor]:
    """Our names for their weights; `prefix` stands before all of theirs."""
    ours: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        ours.update(_renamed(name, name.removeprefix(prefix), tensor))
    return ours


def _renamed(name: str, bare: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if COMPUTED.fullmatch(bare):
        return
    if found := re.fullmatch(r"(?:blocks\.(\d+)|output_layer)\.adaLN_modulation\.(weight|bias)", bare):
        yield from _modulation(found[1], found[2], tensor)
        return
    for theirs, ours in NAMES.items():
        if found := re.fullmatch(theirs, bare):
            yield found.expand(ours), tensor
            return
    yield name, tensor


def _modulation(block: str | None, kind: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Their rows are shift, scale and gate of attention, then those of the MLP; the last layer has shift and scale alone."""
    if block is None:
        shift, scale = tensor.chunk(2)
        yield f"model.norm.modulation.{kind}", torch.cat([scale, shift])
        return
    for branch, (shift, scale, gate) in zip(("attention", "mlp"), tensor.unflatten(0, (2, 3, -1)), strict=True):
        yield f"model.blocks.{block}.{branch}.norm.modulation.{kind}", torch.cat([scale, shift])
        yield f"model.blocks.{block}.{branch}.gate.{kind}", gate
