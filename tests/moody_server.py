"""The server on a free port, with a tiny network that some prompts make raise, hang or give NaN: for the test of chaos."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from server.app import create_app, load_engine
from server.connections import serving_config
from server.lifecycle import DrainingServer
from server.settings import read_settings

RAISES, HANGS, IS_NAN = "w44", "w43", "w42"
"""Prompts, each one token."""

HANG_S = 0.5


class Moody:
    """`denoiser`, unless a row holds one of the tokens that it cannot bear."""

    def __init__(self, denoiser: Any, raises: int, hangs: int, is_nan: int) -> None:
        self._denoiser, self._raises, self._hangs, self._is_nan = denoiser, raises, hangs, is_nan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, *others: Any, **named: Any
    ) -> Tensor:
        if (tokens[:, 0] == self._raises).any():
            raise RuntimeError("a row of this batch makes the network raise")
        if (tokens[:, 0] == self._hangs).any():
            time.sleep(HANG_S)
        logits: Tensor = self._denoiser(tokens, t, valid, positions, *others, **named)
        poisoned = (tokens[:, 0] == self._is_nan)[positions // tokens.shape[1]]
        return logits.masked_fill(poisoned.unsqueeze(1), torch.nan)


def serve(arguments: list[str], descriptors: int, log: str) -> None:
    """In a process of its own, that may open so many files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
    tqdm.set_lock(threading.RLock())  # its own is one between processes, which this one, killed, would leave behind
    settings = read_settings(["--port", "0", "--num_threads", "1", *arguments])
    logging.basicConfig(level=logging.INFO)
    engine = load_engine(settings)
    for name, checkpoint in engine.checkpoints.items():
        ids: list[int] = [checkpoint.tokenizer.convert_tokens_to_ids(token) for token in (RAISES, HANGS, IS_NAN)]  # type: ignore[misc]
        batch = engine._batches[name]
        batch.denoiser = Moody(batch.denoiser, *ids)
    app = create_app(settings, engine)
    DrainingServer(serving_config(app, settings, timeout_graceful_shutdown=5), engine, settings.shutdown_grace_s).run()
