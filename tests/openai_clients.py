"""OpenAI's own client to a live server, and servers whose answers are known or do not come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx2
from openai import OpenAI
from torch import Tensor

from tests.live_server import FakeDenoiser, LiveServer, faked, serving
from token_diffusion.checkpoint import Checkpoint


def client_of(server: LiveServer, **options: Any) -> Any:
    """Without retries, unless the test is of them. (Its overloads know no dict of fields, hence no type.)"""
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", **{"max_retries": 0, "timeout": 30, **options})


def post(server: LiveServer, path: str, body: Any) -> httpx2.Response:
    """What JSON can spell and a client library would not send, too: half a surrogate pair."""
    headers = {"Content-Type": "application/json"}
    return httpx2.post(server.url + path, content=json.dumps(body), headers=headers, timeout=30)


class FondDenoiser(FakeDenoiser):
    """Equal logits, but for one token that it writes wherever it can."""

    fond_of = 0

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        logits = super().__call__(tokens, t, valid, positions)
        logits[:, self.fond_of] = 1000.0
        return logits


def fond(checkpoint: Checkpoint, token: int) -> Checkpoint:
    """`checkpoint` with a denoiser that writes nothing but `token`."""
    denoiser: Any = FondDenoiser(checkpoint.scheduler.config["vocab_size"])
    denoiser.fond_of = token
    return replace(checkpoint, denoiser=denoiser)


@contextmanager
def held(checkpoint: Checkpoint, **settings: Any) -> Iterator[tuple[LiveServer, FakeDenoiser]]:
    """A server whose network does not come back before its gate is set."""
    checkpoint, denoiser = faked(checkpoint)
    denoiser.gate.clear()
    with serving({checkpoint.name: checkpoint}, **settings) as server:
        try:
            yield server, denoiser
        finally:
            denoiser.gate.set()
