"""Fixtures of the server's tests; a module asks for them with `pytest_plugins = ["tests.server_fixtures"]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.live_server import LiveServer, serving
from tests.tiny import PROCESSES, chat_tokenizer, save_tiny
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.facts import Facts, Frame


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """process -> folder."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {process: save_tiny(root / process, process) for process in PROCESSES}


@pytest.fixture(scope="session")
def tiny(tiny_folders: Mapping[str, Path]) -> dict[str, Checkpoint]:
    """process -> loaded checkpoint, of the same name."""
    return {process: load_checkpoint(folder, name=process) for process, folder in tiny_folders.items()}


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Framed, with a chat template, and an end token that it has learnt."""
    tokenizer = chat_tokenizer()
    facts = Facts(
        Frame((tokenizer.cls_token_id,), (tokenizer.sep_token_id,)), frozenset([tokenizer.eos_token_id]), True
    )
    folder = save_tiny(tmp_path_factory.mktemp("chat") / "chat", "absorbing", tokenizer=tokenizer, facts=facts)
    return load_checkpoint(folder)


@pytest.fixture(scope="session")
def live(tiny: Mapping[str, Checkpoint]) -> Iterator[LiveServer]:
    """All three processes, random weights, no limits in the way."""
    with serving(tiny) as server:
        yield server
