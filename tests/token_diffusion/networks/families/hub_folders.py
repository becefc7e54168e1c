"""Folders of LLaDA and Dream laid out as on their hub pages, with recorded weights and a small tokenizer of the same make."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from .recording import recording

MERGES = [
    "t h", "th e", "Ġ the", "Ġ a", "a t", "c at", "s at", "Ġ cat", "o n",
    "Ġ on", "e r", "i n", "o u", "Ġ sat", "m at", "Ġ mat", "e n",
]  # fmt: skip

LLADA_SPECIAL = [
    "<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]",
    "<|mdm_mask|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
]  # fmt: skip
"""From 56 on; of those of the released tokenizer, whose other control tokens are reserved, the mask is in the middle as well."""

LLADA_CHAT = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)

DREAM_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>",
    "<|object_ref_end|>", "<|beginoftext|>", "<|mask|>",
]  # fmt: skip
"""From 60 on."""

DREAM_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CODE = "raise SystemExit('code of the folder was run')\n"


def write_llada(folder: Path, name: str = "llada", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A folder as GSAI-ML/LLaDA-8B-Instruct is."""
    _write_model(folder, name, dtype, changes)
    vocab, merges = _vocabulary(56)
    tokenizer = Tokenizer(models.BPE(vocab, [(left, right) for left, right in map(str.split, merges)]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in LLADA_SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": False,
        "add_eos_token": False,
        "added_tokens_decoder": _added(LLADA_SPECIAL, 56),
        "additional_special_tokens": [],
        "bos_token": "<|startoftext|>",
        "chat_template": LLADA_CHAT,
        "clean_up_tokenization_spaces": False,
        "cls_token": "[CLS]",
        "eos_token": "<|endoftext|>",
        "fast_tokenizer": True,
        "gmask_token": "[gMASK]",
        "merges_file": None,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 10**30,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "trust_remote_code": True,
        "vocab_file": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def write_dream(folder: Path, name: str = "dream", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A folder as Dream-org/Dream-v0-Instruct-7B is; its tokenizer's class is code that lies in it."""
    _write_model(folder, name, dtype, changes)
    vocab, merges = _vocabulary(60)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": _added(DREAM_SPECIAL, 60),
        "additional_special_tokens": DREAM_SPECIAL[1:5],
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|beginoftext|>",
        "chat_template": DREAM_CHAT,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "mask_token": "<|mask|>",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "tokenization_dream.py").write_text(CODE, encoding="utf-8")
    return folder


def _write_model(folder: Path, name: str, dtype: torch.dtype, changes: dict[str, Any]) -> None:
    """config.json, two shards and their index, and modelling code that must not be run."""
    recorded = recording(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(recorded.config | changes), encoding="utf-8")
    weights = {key: tensor.to(dtype) for key, tensor in recorded.weights.items()}
    _write_shards(folder, weights)
    for module in ("configuration", "modeling"):
        (folder / f"{module}_{name}.py").write_text(CODE, encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"_from_model_config": True}), encoding="utf-8")


def _write_shards(folder: Path, weights: dict[str, Tensor]) -> None:
    names = sorted(weights)
    files = {f"model-0000{part + 1}-of-00002.safetensors": names[part::2] for part in range(2)}
    for file, held in files.items():
        save_file({key: weights[key] for key in held}, folder / file, metadata={"format": "pt"})
    where = {key: file for file, held in files.items() for key in held}
    size = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _vocabulary(size: int) -> tuple[dict[str, int], list[str]]:
    """`size` byte-level tokens: what English in small letters needs, and the first merges that still fit."""
    letters = [*string.ascii_lowercase, "Ġ", "Ċ", *string.digits, *".,?!'"]
    merges = MERGES[: size - len(letters)]
    return {token: id for id, token in enumerate([*letters, *(merge.replace(" ", "") for merge in merges)])}, merges


def _added(tokens: list[str], start: int) -> dict[str, dict[str, Any]]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(start + place): {"content": token, **flags} for place, token in enumerate(tokens)}
