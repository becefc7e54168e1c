"""How finely to sort rows by length: padding against forward passes, on the mixed requests of the server's benchmark.

    python -m benchmarks padding [--rows 4 16 48] [--quick]

A batch computes rows of about one length together. Sorted coarsely, short rows are padded to long ones; sorted finely, a
forward pass has few rows, and each costs something however few they are. The same requests run to their end for several
growths, the length of a lane's longest row over its shortest; the times of a round are compared with those of its first.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.engine import lane
from token_diffusion.engine.batch import Batch
from token_diffusion.networks.denoiser import as_denoiser
from token_diffusion.samplers.parameters import SamplingParameters

from ..environment import timed
from ..figures import median
from ..models import MASK, VOCAB_SIZE, as_loaded, random_model
from ..report import Section, Table
from ..serving.direct import parameters_of
from ..serving.traffic import mixed

GROWTHS = (math.inf, 4.0, 2.0, math.sqrt(2), 2**0.25)

NOTE = """Requests of 32-256 tokens and 8-32 steps, all in one batch of the random model; ratios against no sorting at
all. "Padding" is the share of computed positions that belong to no row."""


class Counting:
    """A denoiser that counts what it computes."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = as_denoiser(denoiser)
        self.passes = self.computed = self.padding = 0

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        self.passes, self.computed = self.passes + 1, self.computed + valid.numel()
        self.padding += int((~valid).sum())
        return self.denoiser(tokens, t, valid, positions)


@contextmanager
def sorting(growth: float, device: str) -> Iterator[None]:
    """Lanes of this growth while the block runs."""
    kind, before = torch.device(device).type, dict(lane.GROWTH)
    lane.GROWTH[kind] = growth
    try:
        yield
    finally:
        lane.GROWTH.clear()
        lane.GROWTH.update(before)


def drive(denoiser: Any, requests: list[SamplingParameters], rows: int) -> None:
    """All requests to their end, `rows` of them at a time."""
    batch = Batch(denoiser, TokenDiffusionScheduler(VOCAB_SIZE, MASK))
    waiting = iter(enumerate(requests))
    while True:
        for key, parameters in islice(waiting, rows - len(batch)):
            batch.add(key, [-1] * parameters.seq_len, parameters)
        if batch.idle:
            return
        batch.step()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 16, 48], help="requests at a time")
    parser.add_argument("--rounds", type=int, default=3, help="all growths run this often, in turn")


def section(arguments: argparse.Namespace) -> Section:
    """One table, a row a growth and number of rows."""
    rounds, counts = (1, [16]) if arguments.quick else (arguments.rounds, arguments.rows)
    model = as_loaded(random_model(arguments.device, arguments.dtype))
    asks = mixed({"/sample": "", "/sample/block": ""}, seed=0, most_steps=32)
    table = Table(["rows", "longest / shortest", "forward passes", "padding", "s", "s / unsorted"])
    for rows in counts:
        requests = [parameters_of(ask) for ask in islice(asks, rows + 8)]
        seconds: dict[float, list[float]] = {growth: [] for growth in GROWTHS}
        counted = {}
        for _ in range(rounds):
            for growth in GROWTHS:
                counted[growth] = counting = Counting(model)
                with sorting(growth, arguments.device):
                    seconds[growth].append(timed(partial(drive, counting, requests, rows), model.device))
        for growth, each in seconds.items():
            found = counted[growth]
            ratio = median([a / b for a, b in zip(each, seconds[math.inf], strict=True)])
            share = f"{found.padding / found.computed:.0%}"
            table.add(rows, "any" if growth == math.inf else growth, found.passes, share, median(each), ratio)
    return Section("padding", "Padding: how finely rows are sorted by length", [NOTE, table])
