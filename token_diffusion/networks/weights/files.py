"""The files that a folder's weights lie in: safetensors, whole or in shards, or what torch has pickled."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from zipfile import is_zipfile

import torch
from safetensors import safe_open
from torch import Tensor

WHOLE = ("model.safetensors", "pytorch_model.bin")
"""What a file of all weights is called, the first that is there being read; beside it may lie an index of shards instead."""

HALVES = {torch.bfloat16: "BF16", torch.float16: "F16"}


def weight_files(folder: Path) -> list[Path]:
    """The files that together hold the folder's weights, none if there are none.

    Raises:
        ValueError, KeyError, …: its index cannot be read, or names what is no file of the folder.
    """
    for name in WHOLE:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if outside := [shard for shard in shards if Path(shard).name != shard]:
                raise ValueError(f"{index.name} names {outside[0]!r}, which is no file of the folder")
            return [folder / shard for shard in shards]
    return []


def weight_names(folder: Path) -> frozenset[str]:
    """The names of the folder's weights, by the headers alone; none where those cannot be read."""
    return frozenset(_headers(folder))


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """By each weight's name its shape, by the headers alone; none where those cannot be read."""
    return {name: shape for name, (_, shape) in _headers(folder).items()}


def stored_dtype(folder: Path) -> str:
    """The type that holds the folder's weights as they are, of those that a network has; float32 where that is not known."""
    found = {dtype for dtype, _ in _headers(folder).values()}
    return "bfloat16" if "BF16" in found else "float16" if found == {"F16"} else "float32"


def is_bfloat16(folder: Path) -> bool:
    """Whether any of the folder's weights is bfloat16, by the headers alone; not where those cannot be read."""
    return stored_dtype(folder) == "bfloat16"


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


def _headers(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """By each weight's name its type, in safetensors' words, and its shape."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    try:
        for file in weight_files(folder):
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as opened:
                    slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
                    found |= {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
            else:
                tensors = _unpickled(file).items()
                found |= {name: (HALVES.get(each.dtype, ""), tuple(each.shape)) for name, each in tensors}
    except Exception:  # safetensors, pickle and torch each raise what they like; whoever reads the weights says so
        return {}
    return found


def _unpickled(file: Path) -> dict[str, Tensor]:
    """Memory-mapped, but where torch wrote it before 1.6. Raises `ValueError` for a pickle that asks for code to be run."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except UnpicklingError as error:  # which tells how to run it all the same
        raise ValueError(f"{file.name} holds something else than tensors, and no code in it is run") from error
