"""A server of tiny checkpoints, one of which can chat, and OpenAI's own client to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.live_server import LiveServer, serving
from tests.openai_clients import client_of
from tests.tiny import chat_tokenizer, save_tiny
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.facts import Facts, Frame


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
def shop(tiny: Mapping[str, Checkpoint], chatty: Checkpoint) -> Iterator[LiveServer]:
    """All three processes, and one that chats."""
    with serving({**tiny, "chat": chatty}) as server:
        yield server


@pytest.fixture(scope="session")
def client(shop: LiveServer) -> Iterator[Any]:
    with client_of(shop) as client:
        yield client
