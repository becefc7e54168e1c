"""The flags that say which checkpoint, and how it is loaded."""

from __future__ import annotations

import argparse

import torch

from ..checkpoint import DTYPES, Checkpoint, load_checkpoint
from ..networks.backends import BACKENDS
from ..networks.weights.hub import local_folder, tokenizer_folder


def add_folders(command: argparse.ArgumentParser) -> None:
    """Which, and the tokenizer."""
    add = command.add_argument
    add("--checkpoint_path", required=True, help="folder of a checkpoint, or org/name or org/name@revision of the hub")
    help_tokenizer = "of the tokenizer, if it is not the checkpoint's own"
    add("--tokenizer_name", help=f"folder, or repository of the hub, {help_tokenizer}")


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Those and how it is loaded."""
    add_folders(command)
    add = command.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)")
    add("--dtype", choices=list(DTYPES), help="of the weights (default: bfloat16 if they are that, else float32)")
    add("--backend", choices=BACKENDS, default="torch", help="who computes the forward passes (default: %(default)s)")


def load(arguments: argparse.Namespace) -> Checkpoint:
    """What they ask for. Raises `ParameterError`."""
    folder = local_folder("checkpoint_path", arguments.checkpoint_path)
    options = {name: getattr(arguments, name) for name in ("device", "dtype", "backend")}
    return load_checkpoint(folder, tokenizer_name=tokenizer_folder(arguments.tokenizer_name), **options)
