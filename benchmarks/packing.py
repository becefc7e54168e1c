"""What packed linear layers buy on this CPU: forward passes of the plain network and of the packed one, in turn.

    python -m benchmarks packing [--quick]

Forward passes as the samplers make them: the body over rows x tokens, the head at a few positions or at all. "Used here" says
whether `load_checkpoint` packs on this machine (token_diffusion/packing.py); both are measured wherever oneDNN is.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from typing import Any

import torch

from token_diffusion.denoiser import Denoiser, MaskedLMDenoiser
from token_diffusion.packing import DTYPES, pack, pays

from .environment import timed
from .figures import median
from .models import random_model
from .report import Section, Table

SHAPES = ((1, 64, 1), (4, 64, 2), (16, 64, 8), (4, 256, 16), (4, 256, 1024))
"""Rows, tokens, positions of the head."""

NOTE = """22.7 M parameters; medians of forward passes in turn. Differing: the largest difference of any logit, as a share of the
largest logit."""


@torch.inference_mode()
def measure(plain: Denoiser, packed: Denoiser, shape: tuple[int, int, int], rounds: int) -> tuple[float, float, float]:
    """Seconds of each, and by how much the logits differ."""
    rows, length, count = shape
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 30_000, (rows, length), generator=generator)
    positions = torch.randperm(rows * length, generator=generator)[:count].sort().values
    arguments = (tokens, torch.ones(rows), torch.ones(rows, length, dtype=torch.bool), positions)
    a, b = plain(*arguments), packed(*arguments)
    apart = float((a - b).abs().max() / a.abs().max())
    times: dict[Denoiser, list[float]] = {plain: [], packed: []}
    for _ in range(rounds):
        for denoiser, each in times.items():
            each.append(timed(partial(denoiser, *arguments), torch.device("cpu")))
    return median(times[plain]), median(times[packed]), apart


def both(dtype: torch.dtype) -> tuple[Denoiser, Denoiser]:
    """The random model, plain and packed."""
    plain: Any = random_model().to(dtype)
    packed = copy.deepcopy(plain)
    pack(packed)
    return MaskedLMDenoiser(plain), MaskedLMDenoiser(packed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=30, help="forward passes of each, in turn")


def section(arguments: argparse.Namespace) -> Section:
    """One table, a row a type and shape."""
    found = Section("packing", "Packed linear layers", [NOTE])
    if not torch.backends.mkldnn.is_available():
        found.parts.append("Not measured: torch was built without oneDNN.")
        return found
    columns = ["type", "rows x tokens, head at", "plain ms", "packed ms", "plain / packed", "differing", "used here"]
    table = Table(columns)
    for dtype in DTYPES:
        plain, packed = both(dtype)
        used = "yes" if pays(torch.device("cpu"), dtype) else "no"
        for shape in SHAPES:
            a, b, apart = measure(plain, packed, shape, 5 if arguments.quick else arguments.rounds)
            what = "{} x {}, {}".format(*shape)
            table.add(str(dtype).removeprefix("torch."), what, a * 1e3, b * 1e3, a / b, f"{apart:.0e}", used)
    found.parts.append(table)
    return found
