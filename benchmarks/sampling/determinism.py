"""How often do neighbours change a request's tokens? Same requests alone and among others, in both modes of the engine.

    python -m benchmarks determinism [--requests 2000] [--backend openvino] [--quick]

Every draw is a function of the seed, the sample, the step and the position, so that neighbours can only change how the
network's sums are rounded. In mode "fast" such a rounding may, very rarely, flip a token, and through it later ones; in
mode "exact" it must not. All endpoints, on the demo checkpoints: each request runs alone in a batch, and once more in a
batch where others of other lengths, steps and samplers come, go and are cancelled.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.engine.batch import Batch
from token_diffusion.networks.backends import BACKENDS
from token_diffusion.samplers.parameters import SamplingParameters

from ..models import DEMOS, load_all
from ..report import Section, Table

Mode = Literal["fast", "exact"]
Tokens = list[list[int]]

TOGETHER = 16
"""Requests at a time."""
CANCELLED = 4
"""Every such neighbour leaves in the middle, and is not compared."""

ENDPOINTS = {"absorbing": ("/sample", "/sample/block"), "uniform": ("/sample", "/sample/block")}
ENDPOINTS["hybrid"] = ("/sample/hybrid", "/sample/block")


@dataclass
class Count:
    """Requests and tokens compared, and those of them that differ."""

    requests: int = 0
    differing: int = 0
    tokens: int = 0
    differing_tokens: int = 0

    def compare(self, alone: Tokens, among: Tokens) -> None:
        pairs = [(a, b) for x, y in zip(alone, among, strict=True) for a, b in zip(x, y, strict=True)]
        wrong = sum(a != b for a, b in pairs)
        self.requests, self.differing = self.requests + 1, self.differing + (wrong > 0)
        self.tokens, self.differing_tokens = self.tokens + len(pairs), self.differing_tokens + wrong


def make_requests(count: int, seed: int) -> list[SamplingParameters]:
    """Half of them block-wise; lengths, steps, samples, temperatures and top-p mixed."""
    generator = random.Random(seed)
    return [
        SamplingParameters(
            seq_len=generator.randrange(16, 65),
            num_samples=generator.choice((1, 1, 2)),
            num_inference_steps=generator.choice((2, 4, 8)) if index % 2 else generator.choice((4, 8, 16, 32)),
            temperature=generator.choice((0.0, 0.7, 1.0, 1.0, 1.3)),
            top_p=generator.choice((0.9, 1.0)),
            top_k=generator.choice((0, 0, 50)),
            seed=generator.randrange(2**31),
            block_size=generator.choice((8, 16, 32)) if index % 2 else None,
        )
        for index in range(count)
    ]


def sample_alone(checkpoint: Checkpoint, mode: Mode, parameters: SamplingParameters) -> Tokens:
    """The request in a batch of its own."""
    batch = Batch(checkpoint.denoiser, checkpoint.scheduler, device=checkpoint.device, determinism=mode)
    batch.add(0, [-1] * parameters.seq_len, parameters)
    while True:
        for update in batch.step():
            if update.result is not None:
                return update.result.tokens


@dataclass
class Crowd:
    """A batch that is kept full: whoever ends, or is cancelled, makes room for the next."""

    batch: Batch
    requests: Sequence[SamplingParameters]
    found: dict[int, Tokens] = field(default_factory=dict)
    running: dict[int, int] = field(default_factory=dict)
    """key -> the step at which it is cancelled, or one that does not come"""

    def run(self) -> dict[int, Tokens]:
        """Index -> tokens of every request that was not cancelled."""
        waiting = iter(range(len(self.requests)))
        while self._fill(waiting):
            for update in self.batch.step():
                assert isinstance(update.key, int)
                if update.result is not None:
                    self.found[update.key] = update.result.tokens
                    del self.running[update.key]
                elif update.step >= self.running[update.key]:
                    self.batch.remove(update.key)
                    del self.running[update.key]
        return self.found

    def _fill(self, waiting: Iterator[int]) -> bool:
        while len(self.running) < TOGETHER and (index := next(waiting, None)) is not None:
            request = self.requests[index]
            self.batch.add(index, [-1] * request.seq_len, request)
            leaves = index // 2 % CANCELLED == CANCELLED - 1  # of both kinds of requests
            self.running[index] = (request.num_inference_steps or 0) // 2 if leaves else 2**62
        return bool(self.running)


def compare(checkpoint: Checkpoint, mode: Mode, requests: Sequence[SamplingParameters]) -> dict[str, Count]:
    """Endpoint -> what was counted."""
    batch = Batch(checkpoint.denoiser, checkpoint.scheduler, device=checkpoint.device, determinism=mode)
    among = Crowd(batch, requests).run()
    counts = {endpoint: Count() for endpoint in ENDPOINTS[checkpoint.process]}
    plain, block = ENDPOINTS[checkpoint.process]
    for index, tokens in among.items():
        parameters = requests[index]
        alone = sample_alone(checkpoint, mode, parameters)
        counts[plain if parameters.block_size is None else block].compare(alone, tokens)
    return counts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=2000, help="in mode fast; a quarter of them in mode exact")
    parser.add_argument("--seed", type=int, default=0, help="of the requests")
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="who computes the forward passes")


def section(arguments: argparse.Namespace) -> Section:
    """One table; a difference in mode exact is a failure."""
    note = (
        f"The same request alone and among {TOGETHER - 1} others that come, go and are cancelled, on the demo checkpoints: "
        "requests with any differing token, and differing tokens (one flip changes what follows it)."
    )
    found = Section("determinism", "Same seed, same tokens, whoever else is there", [note])
    table = Table(["mode", "endpoint", "process", "requests", "differing", "tokens", "differing tokens"])
    total = max(24, arguments.requests // 20 if arguments.quick else arguments.requests)
    modes: dict[Mode, int] = {"fast": total, "exact": max(24, total // 4)}
    checkpoints = load_all(DEMOS, arguments.device, arguments.dtype, arguments.backend)
    for mode, count in modes.items():
        for number, checkpoint in enumerate(checkpoints.values()):
            requests = make_requests(count * CANCELLED // (CANCELLED - 1) // len(checkpoints), arguments.seed + number)
            for endpoint, each in compare(checkpoint, mode, requests).items():
                differing = f"{each.differing} ({each.differing / max(each.requests, 1):.2%})"
                row = (each.requests, differing, each.tokens, each.differing_tokens)
                table.add(mode, endpoint, checkpoint.process, *row)
                if mode == "exact" and each.differing:
                    found.failures.append(f"{each.differing} requests to {endpoint} differ in mode exact")
    found.parts.append(table)
    return found
