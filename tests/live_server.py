"""Denoisers that can be slowed down or broken, and a real server on a real socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import torch
from torch import Tensor

from server.app import create_app
from server.connections import serving_config
from server.lifecycle import DrainingServer
from server.settings import Settings
from server.work.engine import Engine
from server.work.room import Bounds
from tests.tiny import MAX_POSITIONS as MAX_POSITIONS
from tests.tiny import tiny_tokenizer as tiny_tokenizer
from token_diffusion.checkpoint import Checkpoint


class FakeDenoiser:
    """Equal logits for every token, after `delay_s` seconds; raises `failure` once if it is set.

    It raises for rows longer than `longest`, and its logits are NaN for a row that holds the token `poison`, which is never
    drawn. `widths` are the lengths of its calls. It waits while `gate` is not set.
    """

    device = torch.device("cpu")

    def __init__(self, vocab_size: int, delay_s: float = 0.0) -> None:
        self.vocab_size = vocab_size
        self.delay_s = delay_s
        self.calls = 0
        self.largest_batch = 0
        self.failure: Exception | None = None
        self.longest, self.poison = 10**6, -1
        self.widths: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        self.calls += 1
        self.largest_batch = max(self.largest_batch, len(tokens))
        self.widths.append(tokens.shape[1])
        if self.widths[-1] > self.longest:
            raise RuntimeError("too long")
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        time.sleep(self.delay_s)
        self.gate.wait(30)
        poisoned = (tokens == self.poison).any(1)[positions // tokens.shape[1]]
        logits = torch.zeros(len(positions), self.vocab_size)
        if self.poison >= 0:
            logits[:, self.poison] = -torch.inf
        return logits.masked_fill(poisoned.unsqueeze(1), torch.nan)


def faked(checkpoint: Checkpoint, delay_s: float = 0.0, name: str | None = None) -> tuple[Checkpoint, FakeDenoiser]:
    """`checkpoint` with a fake denoiser, which knows no longest sequence."""
    denoiser: Any = FakeDenoiser(checkpoint.scheduler.config["vocab_size"], delay_s)
    return replace(checkpoint, denoiser=denoiser, max_seq_len=None, name=name or checkpoint.name), denoiser


@dataclass(frozen=True)
class LiveServer:
    """A server in a thread."""

    url: str
    engine: Engine
    process: DrainingServer

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=30, **options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=30, **options)

    def events(self, path: str, body: Any) -> list[httpx2.ServerSentEvent]:
        """All events of a stream, which must be well formed."""
        with httpx2.Client(timeout=30) as client, client.sse(self.url + path, method="POST", json=body) as source:
            assert source.response.status_code == 200, source.response.read()
            events = list(source)
        assert_rising(events)
        assert events[-1].event in ("done", "error")
        return events

    @contextmanager
    def reading(self, path: str, body: Any) -> Iterator[Iterator[httpx2.ServerSentEvent]]:
        """The events of a stream that may be left in the middle."""
        with httpx2.Client(timeout=30) as client, client.sse(self.url + path, method="POST", json=body) as source:
            yield iter(source)


@contextmanager
def serving(checkpoints: Mapping[str, Checkpoint], **settings: Any) -> Iterator[LiveServer]:
    """A server of `checkpoints` on a free port of 127.0.0.1."""
    chosen = Settings(port=0, **settings)
    engine = Engine(
        checkpoints,
        bounds=Bounds.of(chosen),
        max_batch_tokens=chosen.max_batch_tokens,
        determinism=chosen.determinism,
    )
    app = create_app(chosen, engine)
    config = serving_config(app, chosen, timeout_graceful_shutdown=5)
    server = DrainingServer(config, engine, chosen.shutdown_grace_s)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        yield LiveServer(f"http://127.0.0.1:{port}", engine, server)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return once `condition` holds; fail if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def assert_rising(events: list[httpx2.ServerSentEvent]) -> None:
    ids = [int(event.id) for event in events]
    assert ids == sorted(set(ids)), ids


def replay(events: list[httpx2.ServerSentEvent]) -> list[list[int]]:
    """The tokens that `start` and all changes lead to."""
    assert events[0].event == "start"
    tokens: list[list[int]] = json.loads(events[0].data)["tokens"]
    for event in events:
        if event.event == "state":
            for sample, position, token in json.loads(event.data)["changes"]:
                tokens[sample][position] = token
    return tokens


def done_of(events: list[httpx2.ServerSentEvent]) -> dict[str, Any]:
    """The data of the last event, which must be `done`."""
    assert events[-1].event == "done", events[-1].data
    data: dict[str, Any] = json.loads(events[-1].data)
    return data


def tokens_of(done: Mapping[str, Any]) -> list[list[int]]:
    """The tokens of each sample."""
    return [sample["tokens"] for sample in done["samples"]]
