"""Forward passes of every backend beside the products alone, at the shapes that samplers ask for."""

from __future__ import annotations

from functools import partial

import torch

from token_diffusion.networks.denoiser import Denoiser

from ..environment import timed
from ..figures import median
from ..models import asked
from ..report import Table
from .contenders import PLAIN, Contender, willing
from .products import products_of, run

SHAPES = ((1, 64, 2), (4, 64, 8), (4, 64, 256), (16, 64, 32), (4, 256, 16), (4, 250, 16))
"""Rows, tokens, positions of the head."""


def passes(contenders: list[Contender], rounds: int) -> Table:
    """One table, a row a shape; all contenders have the same weights in the same type, and the plain one is among them."""
    there = willing(contenders)
    (plain,) = (each.denoiser for each in there if each.backend == PLAIN)
    names = [each.backend for each in there]
    table = Table(["rows x tokens, head at", "products ms", "GFLOP/s", *(f"{name} ms" for name in names)])
    for shape in SHAPES:
        seconds, operations = times(plain, {each.backend: each.denoiser for each in there}, shape, rounds)
        products = seconds.pop("products")
        cells = []
        for name in names:
            ratio = median([a / b for a, b in zip(seconds[name], products, strict=True)])
            cells.append(f"{median(seconds[name]) * 1e3:.1f} ({ratio:.2f})")
        what = "{} x {}, {}".format(*shape)
        table.add(what, median(products) * 1e3, operations / median(products) / 1e9, *cells)
    return table


def times(
    plain: Denoiser, denoisers: dict[str, Denoiser], shape: tuple[int, int, int], rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Seconds of each and of the "products", all in turn after an untimed pass; and the operations of these products."""
    arguments, device = asked(*shape), torch.device("cpu")
    kernels, operations = products_of(plain, arguments)
    works = {"products": partial(run, kernels)} | {
        name: partial(denoiser, *arguments) for name, denoiser in denoisers.items()
    }
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(timed(work, device))
    return found, operations


@torch.inference_mode()
def apart(exact: Denoiser, other: Denoiser, shape: tuple[int, int, int] = SHAPES[1]) -> float:
    """The largest difference of any logit, as a share of the largest logit."""
    a, b = (each(*asked(*shape)).float() for each in (exact, other))
    return float((a - b).abs().max() / a.abs().max())
