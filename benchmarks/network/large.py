"""Folders as large as released ones, laid out as their authors lay them out, of random weights: what memory is measured on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

SHARD_BYTES = 2 * 2**30
POOL = (1 << 24) + 1
"""Random numbers that all weights are taken from, each from its own place on: 8 billion fresh ones would take minutes."""

END_OF_TEXT, MASK, END_OF_TURN = 126081, 126336, 126348
"""LLaDA's ids."""


@dataclass(frozen=True)
class Shape:
    """Of LLaDA: sizes by their names in its config.json."""

    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    mlp_hidden_size: int = 12288
    embedding_size: int = 126464
    max_sequence_length: int = 4096

    @property
    def config(self) -> dict[str, object]:
        """As GSAI-ML/LLaDA-8B publishes it, what it says of initialisation left out."""
        return {
            "activation_type": "silu",
            "alibi": False,
            "architectures": ["LLaDAModelLM"],
            "attention_layer_norm": False,
            "block_group_size": 1,
            "block_type": "llama",
            "d_model": self.d_model,
            "embedding_size": self.embedding_size,
            "eos_token_id": END_OF_TEXT,
            "include_bias": False,
            "include_qkv_bias": False,
            "input_emb_norm": False,
            "layer_norm_type": "rms",
            "layer_norm_with_affine": True,
            "mask_token_id": MASK,
            "max_sequence_length": self.max_sequence_length,
            "mlp_hidden_size": self.mlp_hidden_size,
            "mlp_ratio": 4,
            "model_type": "llada",
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_heads,
            "n_layers": self.n_layers,
            "pad_token_id": END_OF_TEXT,
            "rms_norm_eps": 1e-05,
            "rope": True,
            "rope_theta": 500000.0,
            "scale_logits": False,
            "torch_dtype": "bfloat16",
            "vocab_size": self.embedding_size,
            "weight_tying": False,
        }

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Those of the weights, by LLaDA's names."""
        wide, deep = self.d_model, self.mlp_hidden_size
        block = {
            "attn_norm": (wide,),
            "ff_norm": (wide,),
            **{f"{name}_proj": (wide, wide) for name in "qkv"},
            "attn_out": (wide, wide),
            "ff_proj": (deep, wide),
            "up_proj": (deep, wide),
            "ff_out": (wide, deep),
        }
        blocks = {f"blocks.{index}.{name}": size for index in range(self.n_layers) for name, size in block.items()}
        ends = {"wte": (self.embedding_size, wide), "ln_f": (wide,), "ff_out": (self.embedding_size, wide)}
        return {f"model.transformer.{name}.weight": size for name, size in (ends | blocks).items()}


SHAPES = {
    "llada-8b": Shape(),
    "llada-8b-2-layers": Shape(n_layers=2),
    "tiny": Shape(d_model=32, n_layers=2, n_heads=2, mlp_hidden_size=64),
}


def save_large(folder: Path, shape: Shape, dtype: torch.dtype = torch.bfloat16) -> int:
    """Writes config, tokenizer and weights in shards; the parameters that there are. Needs no more memory than a shard takes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.config, indent=2))
    llada_tokenizer(shape.embedding_size).save_pretrained(folder)
    placed: dict[str, str] = {}
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(dtype)
    shards = list(_shards(shape, dtype))
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights = {name: _weight(pool, len(placed) + index, shape.sizes[name]) for index, name in enumerate(names)}
        save_file(weights, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(names, file)
    count = sum(torch.Size(size).numel() for size in shape.sizes.values())
    index = {"metadata": {"total_size": count * dtype.itemsize}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return count


def _shards(shape: Shape, dtype: torch.dtype) -> Iterator[list[str]]:
    names: list[str] = []
    room = SHARD_BYTES
    for name, size in shape.sizes.items():
        taken = torch.Size(size).numel() * dtype.itemsize
        if names and taken > room:
            yield names
            names, room = [], SHARD_BYTES
        names.append(name)
        room -= taken
    yield names


def _weight(pool: Tensor, number: int, size: tuple[int, ...]) -> Tensor:
    """Around 1 for a norm, of a standard deviation of 0.02 for a matrix: what a released network's are about."""
    if len(size) == 1:
        return 1 + pool[: size[0]]
    count = torch.Size(size).numel()
    return pool.roll(number * 7919).repeat(-(-count // POOL))[:count].view(size)


def llada_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Made-up words, and LLaDA's control tokens at their ids."""
    control = {
        END_OF_TEXT - 1: "<|startoftext|>",
        END_OF_TEXT: "<|endoftext|>",
        MASK: "<|mdm_mask|>",
        END_OF_TURN - 2: "<|start_header_id|>",
        END_OF_TURN - 1: "<|end_header_id|>",
        END_OF_TURN: "<|eot_id|>",
    }
    vocabulary = {control.get(index, f"word{index}"): index for index in range(min(size, END_OF_TURN + 1))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="word0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[control[index] for index in sorted(control) if index > END_OF_TEXT],
    )
