"""The server that people write around such a model: FastAPI, one lock, a sampler's loop for each request.

    python -m benchmarks.serving.plain_server --checkpoint NAME=DIR --loop textbook|ours

It takes the requests of our server and answers with the same events, so that one load generator serves both. Requests are
sampled one at a time, in the order of their arrival, a step at a time in a worker thread, so that the event loop stays free.
With `--loop textbook` a request is sampled by the loop of its method's authors (sampling/textbook.py), with `--loop ours` by our
own offline sampler: the first shows what the whole is worth, the second what sharing forward passes is worth by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from server.app import load_engine
from server.settings import Settings
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.engine.batch import Batch
from token_diffusion.text import decode

from ..models import load_all, plain_model
from ..sampling.samplers import full_logits
from ..sampling.textbook import TEXTBOOKS, Task
from .direct import parameters_of
from .traffic import Ask

METHODS = {"absorbing": "mdlm, ddpm_cache", "uniform": "udlm", "hybrid": "gidd"}
"""The textbook loop of a process; block-wise requests have `bd3lms`."""

State = tuple[int, int, list[tuple[int, int, int]], list[list[int]]]
"""Steps done, network evaluations, changes, tokens."""


as_transformers_load_it = cache(plain_model)


def textbook_states(checkpoint: Checkpoint, ask: Ask) -> Iterator[State]:
    """Each state of the authors' loop."""
    parameters = parameters_of(ask)
    task = Task(checkpoint.scheduler, parameters)
    textbook = TEXTBOOKS["bd3lms" if ask.path == "/sample/block" else METHODS[checkpoint.process]]
    network, nfe = full_logits(as_transformers_load_it(checkpoint.path, checkpoint.device, checkpoint.dtype)), 0

    def counted(tokens: Tensor, t: float) -> Tensor:
        nonlocal nfe
        nfe += 1
        return network(tokens, t)

    torch.manual_seed(ask.body["seed"])
    z = checkpoint.scheduler.sample_prior((parameters.num_samples, parameters.seq_len)).to(checkpoint.device)
    before = z.tolist()
    yield 0, 0, [], before
    for step, state in textbook.run(counted, task, z):
        tokens = state.tolist()
        yield step, nfe, list(_changes(before, tokens)), tokens
        before = tokens


def _changes(before: list[list[int]], after: list[list[int]]) -> Iterator[tuple[int, int, int]]:
    for sample, (old, new) in enumerate(zip(before, after, strict=True)):
        yield from ((sample, index, b) for index, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)


def our_states(checkpoint: Checkpoint, ask: Ask) -> Iterator[State]:
    """Each state of our sampler, alone in its batch."""
    batch = Batch(checkpoint.denoiser, checkpoint.scheduler, device=checkpoint.device)
    tokens = batch.add(0, [-1] * ask.body["seq_len"], parameters_of(ask))
    yield 0, 0, [], tokens
    while True:
        for update in batch.step():
            for sample, position, token in update.changes:
                tokens[sample][position] = token
            yield update.step, update.nfe, update.changes, tokens
            if update.result is not None:
                return


LOOPS = {"textbook": textbook_states, "ours": our_states}


def create_app(checkpoints: dict[str, Checkpoint], loop: str) -> FastAPI:
    """`POST /sample`, `/sample/block`, `/sample/hybrid` and `GET /health`."""
    app, lock = FastAPI(), asyncio.Lock()
    thread = ThreadPoolExecutor(1, "sampler")

    async def events(ask: Ask) -> AsyncIterator[str]:
        checkpoint, last = checkpoints[ask.body["model"]], None
        async with lock:
            states = LOOPS[loop](checkpoint, ask)
            while (state := await asyncio.get_running_loop().run_in_executor(thread, next, states, None)) is not None:
                step, nfe, changes, last = state
                if step == 0:
                    yield _event("start", {"seed": ask.body["seed"], "tokens": last})
                else:
                    yield _event("state", {"step": step, "nfe": nfe, "changes": changes})
        samples = [{"text": decode(checkpoint.tokenizer, row), "tokens": row} for row in last or []]
        yield _event("done", {"samples": samples})

    @app.post("/{path:path}")
    async def sample(path: str, body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(events(Ask("/" + path, body)), media_type="text/event-stream")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--loop", choices=list(LOOPS), default="textbook")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--num_threads", type=int)
    asked = parser.parse_args(arguments)
    disable_progress_bar()
    if asked.num_threads is not None:
        torch.set_num_threads(asked.num_threads)
    pairs = [pair.partition("=") for pair in asked.checkpoint]
    folders = {name: Path(path) for name, _, path in pairs}
    if asked.loop == "ours":
        # set up as our server is, so that requests which share forward passes make the difference
        places = {name: str(path) for name, path in folders.items()}
        settings = Settings(checkpoint=places, device=asked.device, dtype=asked.dtype)
        checkpoints = load_engine(settings).checkpoints
    else:
        checkpoints = load_all(folders, asked.device, asked.dtype)
    uvicorn.run(
        create_app(checkpoints, asked.loop), host=asked.host, port=asked.port, log_level="info", access_log=False
    )


if __name__ == "__main__":
    main(sys.argv[1:])
