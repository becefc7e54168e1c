"""Folders of networks that were turned from left to right to all sides, laid out as on their hub pages, with small tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from .hub_folders import CODE, MERGES
from .recording import recording

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = {60: "<|im_start|>", 61: "<|im_end|>", 62: "<|endoftext|>", 63: "<think>", 64: "<|mask|>"}
LLAMA3 = {60: "<|begin_of_text|>", 61: "<|eot_id|>", 62: "<|end_of_text|>", 64: "<|mask|>"}


def write_turned(
    folder: Path, name: str, *, mask: bool = True, weights: dict[str, Tensor] | None = None, **changes: Any
) -> Path:
    """The folder of that recording. mask: whether its tokenizer says which token that is, as those that were trained do."""
    recorded = recording(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(recorded.config | changes), encoding="utf-8")
    save_file(weights or recorded.weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "modeling_theirs.py").write_text(CODE, encoding="utf-8")
    {
        "a2d-llama": _llama3,
        "a2d-qwen2": _qwen,
        "a2d-qwen3": _qwen,
        "diffugpt": _gpt2,
        "diffullama": _llama2,
    }[name](folder, mask)
    return folder


def _qwen(folder: Path, mask: bool) -> None:
    kept = QWEN if mask else {id: token for id, token in QWEN.items() if id < 64}
    tokenizer = _words(64, kept, eos_token="<|im_end|>", pad_token="<|endoftext|>", **_mask(mask))
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


def _llama3(folder: Path, mask: bool) -> None:
    kept = LLAMA3 if mask else {id: token for id, token in LLAMA3.items() if id < 64}
    roles = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|eot_id|>"}
    _words(64, kept, **roles, **_mask(mask)).save_pretrained(folder)


def _llama2(folder: Path, mask: bool) -> None:
    """Of 70 ids, the mask an ordinary word."""
    _words(
        70, {1: "<s>", 2: "</s>"}, bos_token="<s>", eos_token="</s>", **({"mask_token": "w11"} if mask else {})
    ).save_pretrained(folder)


def _gpt2(folder: Path, mask: bool) -> None:
    """GPT-2's own, 59 ids, the last `<|endoftext|>`; its class is one of the authors' training code."""
    vocabulary = [*"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ", *"0123456789", *".,?!'"]
    merges = MERGES[: 58 - len(vocabulary)]
    vocabulary += [merge.replace(" ", "") for merge in merges] + ["<|endoftext|>"]
    (folder / "vocab.json").write_text(
        json.dumps({token: id for id, token in enumerate(vocabulary)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    end = "<|endoftext|>"
    settings = {"tokenizer_class": "MaskTokenWrapper", "bos_token": end, "eos_token": end, "unk_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _words(size: int, special: dict[int, str], **roles: str) -> PreTrainedTokenizerFast:
    """Whole words, and these among them."""
    vocabulary = {special.get(id, f"w{id}"): id for id in range(max(size, *(id + 1 for id in special)))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=[*special.values()], **roles)


def _mask(there: bool) -> dict[str, str]:
    return {"mask_token": "<|mask|>"} if there else {}


def as_bfloat16(name: str) -> dict[str, Tensor]:
    return {key: tensor.to(torch.bfloat16) for key, tensor in recording(name).weights.items()}
