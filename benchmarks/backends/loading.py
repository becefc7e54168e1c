"""What a backend costs before it serves, each in a fresh process: seconds to load and until shapes are known, and memory."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from token_diffusion.networks.cpu.memory import prepare

from ..environment import resident_mb
from ..models import asked
from .contenders import Contender
from .passes import SHAPES


@dataclass(frozen=True)
class Cost:
    """load: seconds of `load_checkpoint`. first: seconds of the first pass at each of `SHAPES`, together.

    resident, peak: MB of the process above what it held before it loaded, after those passes and at most.
    """

    load: float
    first: float
    resident: float
    peak: float


def cost(folder: Path, backend: str, dtype: str) -> Cost:
    """Of one contender that can be measured, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, context, torch.set_num_threads, threads) as process:
        return process.submit(_cost, Contender(folder, backend, dtype)).result()


@torch.inference_mode()
def _cost(contender: Contender) -> Cost:
    disable_progress_bar()
    prepare()  # as shell and server do
    before = resident_mb()
    start = time.perf_counter()
    denoiser = contender.denoiser
    loaded = time.perf_counter()
    for shape in SHAPES:
        denoiser(*asked(*shape))
    return Cost(loaded - start, time.perf_counter() - loaded, resident_mb() - before, resident_mb("VmHWM") - before)
