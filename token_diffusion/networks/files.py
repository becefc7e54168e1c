"""The files that a folder's weights lie in: safetensors, whole or in shards, or what torch has pickled."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

WHOLE = ("model.safetensors", "pytorch_model.bin")
"""What a file of all weights is called, the first that is there being read; beside it may lie an index of shards instead."""


def weight_files(folder: Path) -> list[Path]:
    """The files that together hold the folder's weights, none if there are none."""
    for name in WHOLE:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [folder / shard for shard in sorted(set(shards))]
    return []


def weight_names(folder: Path) -> frozenset[str]:
    """The names of the folder's weights, by the headers alone; none where those cannot be read."""
    return frozenset(_dtypes(folder))


def is_bfloat16(folder: Path) -> bool:
    """Whether any of the folder's weights is bfloat16, by the headers alone; not where those cannot be read."""
    return "BF16" in _dtypes(folder).values()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The folder's weights, on the CPU, each a piece of its file that is read when it is used: they take no memory by themselves.

    Raises:
        Exception: whatever the library raises that reads such a file. No code in a pickle is run.
    """
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt", device="cpu") as opened:
                weights |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        else:
            weights |= _unpickled(file)
    return weights


def _dtypes(folder: Path) -> dict[str, str]:
    """By each weight's name its type, in safetensors' words."""
    found: dict[str, str] = {}
    try:
        for file in weight_files(folder):
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as opened:
                    found |= {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
            else:
                half = torch.bfloat16
                found |= {name: "BF16" if each.dtype == half else "" for name, each in _unpickled(file).items()}
    except Exception:  # safetensors, pickle and torch each raise what they like; whoever reads the weights says so
        return {}
    return found


def _unpickled(file: Path) -> dict[str, Tensor]:
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
