"""The flags that say which checkpoint, and how it is loaded."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..checkpoint import AUTO, DTYPES, Checkpoint, load_checkpoint
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
    help_dtype = "of the weights (default: bfloat16 if they are that, else float32); auto: what is best for the device"
    add("--dtype", choices=[*DTYPES, AUTO], help=help_dtype)
    add("--backend", choices=BACKENDS, default="torch", help="who computes the forward passes (default: %(default)s)")


def load(arguments: argparse.Namespace) -> Checkpoint:
    """What they ask for; what is logged of it goes to stderr. Raises `ParameterError`."""
    options = {name: getattr(arguments, name) for name in ("device", "dtype", "backend")}
    with _told():
        folder = local_folder("checkpoint_path", arguments.checkpoint_path)
        return load_checkpoint(folder, tokenizer_name=tokenizer_folder(arguments.tokenizer_name), **options)


@contextmanager
def _told() -> Iterator[None]:
    """In here our log is on stderr, a line each."""
    log, handler = logging.getLogger(__package__.partition(".")[0]), logging.StreamHandler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
