"""What the formats that come of MDLM's DiT (mdlm/models/dit.py) have in common: sizes, vocabularies, and names of weights.

Blocks of rotary attention and a GELU MLP under adaptive norms, whose shift, scale and gate, of attention and of the MLP, come of
one fused layer; `TokenDiffusionForMaskedLM` has a layer for each norm and each gate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....diffusion.values import check_bool, check_int, check_number
from ....errors import ParameterError
from ...transformer import TokenDiffusionConfig
from ..published import Published, Tokens

MLP_RATIO = 4
ROPE_THETA = 10000.0

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "n_blocks",
    "num_attention_heads": "n_heads",
    "cond_dim": "cond_dim",
    "max_position_embeddings": "model_length",
    "dropout": "dropout",
}
"""Our names of sizes, and those of MDLM, UDLM, Duo and BD3-LM."""

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


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer that the authors trained with, and what their loaders put around text.

    start: what each sequence begins with. learnt: what ends a text, and what comes after it if the network has learnt that.
    """

    mask_token_id: int
    tokenizer: str | None = None
    size: int | None = None
    start: Tokens = ("bos",)
    learnt: Tokens = ("eos",)


GPT2 = Vocabulary(50257, "gpt2", 50257)
BERT = Vocabulary(103, "bert-base-uncased", 30522, ("cls",), ("sep",))
QM9 = Vocabulary(2, "yairschiff/qm9-tokenizer", 40, ("cls",), ("sep", "pad"))
VOCABULARIES = {50258: GPT2, 30522: BERT, 40: QM9}
"""By the width of the network. GPT-2's documents are joined by its end token and cut into sequences, each with that token before
and after it; where a text ends at the end token anyway, the last one says nothing, and is not asked for. BERT's and those of QM9
are a document each, and padded: the padding is noise like the rest, but counts in QM9's loss alone."""


def vocabulary(width: int) -> Vocabulary:
    """The one of a network so wide; of one that is not known: as the authors' code has it, the mask is added as the last."""
    return VOCABULARIES.get(width) or Vocabulary(width - 1)


def published(
    family: str,
    config: Mapping[str, Any],
    forward_process: str,
    told: str,
    *,
    framed: bool = True,
    num_classes: int = 0,
) -> Published:
    """A folder with the config.json that MDLM, UDLM and Duo have, of a network over a log-linear schedule.

    Uniform noise may be any of its ids, the mask as well.

    Args:
        told: how it is told the time. framed: whether its sequences began with a start token. num_classes: its labels.
    """
    network = from_sizes(config, time_conditioning=told, num_classes=num_classes)
    known = vocabulary(network.vocab_size)
    scheduler = {
        "vocab_size": network.vocab_size,
        "mask_token_id": known.mask_token_id,
        "forward_process": forward_process,
        "exclude_mask_from_uniform": forward_process != "uniform",
    }
    return Published(
        family,
        network,
        weights,
        scheduler,
        prefix=known.start if framed else (),
        learnt=known.learnt,
        tokenizer=known.tokenizer,
        tokenizer_size=known.size,
    )


def time_conditioning(config: Mapping[str, Any], otherwise: bool) -> str:
    """How the network is told the time, which a config.json may say; as theirs it has the input in either case."""
    told = config.get("time_conditioning", otherwise)
    check_bool("time_conditioning", told)
    return "sigma" if told else "zero"


def from_sizes(
    sizes: Mapping[str, Any], names: Mapping[str, str] = SIZES, inside: str = "", **options: Any
) -> TokenDiffusionConfig:
    """The DiT of the sizes in the authors' config.json, and of `options`, which go before those.

    Args:
        names: theirs for ours; a dropout that is not there is 0. inside: what stands before them in errors.

    Raises:
        ParameterError: one is no size.
    """
    given = {ours: sizes.get(name, 0.0) if ours == "dropout" else sizes[name] for ours, name in names.items()}
    for ours, value in given.items():
        if ours == "dropout":
            check_number(inside + names[ours], value)
        else:
            check_int(inside + names[ours], value, 2 if ours == "vocab_size" else 1)
    return TokenDiffusionConfig(
        intermediate_size=MLP_RATIO * given["hidden_size"],
        mlp="gelu",
        head_bias=True,
        gate_offset=0.0,
        max_frequency=1.0,
        rope_theta=ROPE_THETA,
        tie_word_embeddings=False,
        **given | {"dropout": float(given["dropout"])} | options,
    )


def weights(theirs: Mapping[str, Tensor], prefix: str = "backbone.") -> dict[str, Tensor]:
    """Our names for their weights; `prefix` stands before all of theirs."""
    ours: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        ours.update(_renamed(name, name.removeprefix(prefix), tensor))
    return ours


def _renamed(name: str, bare: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if COMPUTED.fullmatch(bare):
        _check_rotation(name, tensor)
        return
    if found := re.fullmatch(r"(?:blocks\.(\d+)|output_layer)\.adaLN_modulation\.(weight|bias)", bare):
        yield from _modulation(found[1], found[2], tensor)
        return
    for theirs, ours in NAMES.items():
        if found := re.fullmatch(theirs, bare):
            yield found.expand(ours), tensor
            return
    yield name, tensor


def _check_rotation(name: str, frequencies: Tensor) -> None:
    """Their network turns by the frequencies that the file holds, ours by those of `ROPE_THETA`."""
    steps = torch.arange(len(frequencies)) / len(frequencies)
    if not torch.allclose(frequencies.float(), ROPE_THETA**-steps, rtol=1e-2):
        raise ParameterError(name, f"be powers of {ROPE_THETA:g}", frequencies.tolist()[:3])


def _modulation(block: str | None, kind: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Their rows are shift, scale and gate of attention, then those of the MLP; the last layer has shift and scale alone."""
    if block is None:
        shift, scale = tensor.chunk(2)
        yield f"model.norm.modulation.{kind}", torch.cat([scale, shift])
        return
    for branch, (shift, scale, gate) in zip(("attention", "mlp"), tensor.unflatten(0, (2, 3, -1)), strict=True):
        yield f"model.blocks.{block}.{branch}.norm.modulation.{kind}", torch.cat([scale, shift])
        yield f"model.blocks.{block}.{branch}.gate.{kind}", gate
