"""A server of tiny checkpoints, one of which can chat, and OpenAI's own client to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.live_server import LiveServer, serving
from tests.openai_clients import client_of
from token_diffusion.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def shop(tiny: Mapping[str, Checkpoint], chatty: Checkpoint) -> Iterator[LiveServer]:
    """All three processes, and one that chats."""
    with serving({**tiny, "chat": chatty}) as server:
        yield server


@pytest.fixture(scope="session")
def client(shop: LiveServer) -> Iterator[Any]:
    with client_of(shop) as client:
        yield client
