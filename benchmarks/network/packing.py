"""What packed linear layers buy on this CPU: forward passes of the plain network and of the packed one, in turn.

    python -m benchmarks packing [--quick]

Forward passes as the samplers make them: the body over rows x tokens, the head at a few positions or at all. "Used here" says
whether `load_checkpoint` packs on this machine (networks/cpu/packing.py); both are measured where oneDNN has them.
And how often the rounding of a row depends on the rows beside it: its logits alone, bit for bit against those among others.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from typing import Any

import torch

from token_diffusion.networks.cpu.packing import is_supported, pack, pays
from token_diffusion.networks.denoiser import Denoiser, MaskedLMDenoiser

from ..environment import timed
from ..figures import median
from ..models import DEMOS, asked, plain_model, random_model
from ..report import Section, Table

SHAPES = ((1, 64, 1), (4, 64, 2), (16, 64, 8), (4, 256, 16), (4, 256, 1024))
"""Rows, tokens, positions of the head."""

NOTE = """22.7 M parameters; medians of forward passes in turn. Differing: the largest difference of any logit, as a share of the
largest logit."""

NEIGHBOURS = """**A row alone and among others**: forward passes, with 1-7 neighbours, in which any bit of the row's logits is
another one. Either all are as long as the row, or one is longer and the row is padded; in batches both occur (`padding.py`)."""


@torch.inference_mode()
def measure(plain: Denoiser, packed: Denoiser, shape: tuple[int, int, int], rounds: int) -> tuple[float, float, float]:
    """Seconds of each, and by how much the logits differ."""
    arguments = asked(*shape)
    a, b = plain(*arguments), packed(*arguments)
    apart = float((a - b).abs().max() / a.abs().max())
    times: dict[Denoiser, list[float]] = {plain: [], packed: []}
    for _ in range(rounds):
        for denoiser, each in times.items():
            each.append(timed(partial(denoiser, *arguments), torch.device("cpu")))
    return median(times[plain]), median(times[packed]), apart


@torch.inference_mode()
def differing(denoiser: Denoiser, vocab_size: int, padded: bool, passes: int) -> int:
    """Forward passes in which neighbours change a row's logits, at rows of 16 to 256 tokens."""
    generator, found = torch.Generator().manual_seed(0), 0

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for _ in range(passes):
        rows, length = number(2, 9), number(16, 257)
        longest = length + (number(1, 64) if padded else 0)
        tokens = torch.randint(0, vocab_size, (rows, longest), generator=generator)
        t = torch.rand(rows, generator=generator)
        valid = torch.ones(rows, longest, dtype=torch.bool)
        valid[0, length:] = False
        asked = torch.randint(0, length, (3,), generator=generator)
        alone = denoiser(tokens[:1, :length].contiguous(), t[:1], valid[:1, :length], asked)
        among = denoiser(tokens, t, valid, torch.cat([asked, asked + longest]))[:3]
        found += not torch.equal(alone, among)
    return found


def both(plain: Any) -> tuple[MaskedLMDenoiser, MaskedLMDenoiser]:
    """A network, plain and packed."""
    packed = copy.deepcopy(plain)
    pack(packed)
    return MaskedLMDenoiser(plain), MaskedLMDenoiser(packed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=30, help="forward passes of each, in turn")


def section(arguments: argparse.Namespace) -> Section:
    """One table, a row a type and shape."""
    found = Section("packing", "Packed linear layers", [NOTE])
    if not is_supported(torch.float32):
        found.parts.append("Not measured: oneDNN is not there.")
        return found
    columns = ["type", "rows x tokens, head at", "plain ms", "packed ms", "plain / packed", "differing", "used here"]
    table = Table(columns)
    for dtype in filter(is_supported, (torch.float32, torch.bfloat16)):
        plain, packed = both(random_model().to(dtype))
        used = "yes" if pays(torch.device("cpu"), dtype) else "no"
        for shape in SHAPES:
            a, b, apart = measure(plain, packed, shape, 5 if arguments.quick else arguments.rounds)
            what = "{} x {}, {}".format(*shape)
            table.add(str(dtype).removeprefix("torch."), what, a * 1e3, b * 1e3, a / b, f"{apart:.0e}", used)
    found.parts += [table, NEIGHBOURS, neighbours(10 if arguments.quick else 100)]
    return found


def neighbours(passes: int) -> Table:
    """The second table, in float32."""
    table = Table(["network", "linear layers", "of one length", "padded"])
    networks = {"random, 22.7 M": random_model()} | {name: plain_model(folder) for name, folder in DEMOS.items()}
    for name, network in networks.items():
        for kind, denoiser in zip(("plain", "packed"), both(network), strict=True):
            counts = [differing(denoiser, network.config.vocab_size, padded, passes) for padded in (False, True)]
            table.add(name, kind, *(f"{count} of {passes}" for count in counts))
    return table
