"""A training step of our trainer against a plain loop with its authors' loss: tokens/s and memory; and the data loader.

    python -m benchmarks training [--only absorbing uniform hybrid] [--quick]
    python -m benchmarks training --device cuda --dtype bfloat16 --steps 20 --peak_tflops 989

Ours is what `python -m trainer` does for a step: a `Run` made from its flags, a batch of its feed, `Learner.optimize` with
`loss_sums`. The plain loop: steps.py; whose loss is whose: losses.py. Both take turns in one process; a ratio is the median
over the rounds of the two times of that round. Peak memory has a process of its own for each side: how far two steps rise
above what was there before, gradients and AdamW's moments included; resident on a CPU, allocated on CUDA.

Noise counts for neither side. Ours is made by the loader, which is measured alone; theirs is drawn in the step, by gidd from
probabilities [B, L, V]. `--dtype bfloat16` is mixed precision: weights stay float32. MFU counts 6 N + 12 layers x hidden x L
operations a token, N the weights of the linear layers, the head's included.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers.utils.logging import disable_progress_bar

from token_diffusion.networks.cpu.memory import prepare
from trainer.data.feed import Feed

from ..environment import resident_mb, timed
from ..figures import median
from ..models import PROCESSES, VOCAB_SIZE, random_model
from ..report import Section, Table
from .losses import LOSSES
from .shares import KINDS, shares
from .steps import PRECISIONS, SIDES, Bench, Side, difference

MEGABYTE = 2**20
TOLERANCE = 1e-3
"""Relative difference of the two losses above which, in float32, one of them is wrong."""

COLUMNS = ["process", "textbook", "textbook tokens/s", "ours tokens/s", "textbook s / ours"]
COLUMNS += ["textbook peak MB", "ours peak MB", "textbook MB / ours", "losses differ by"]
LOADER_COLUMNS = ["process", "text", "loader tokens/s", "loader / ours"]

NOTE = """Textbook: forward pass, the loss as the named authors' code has it (`benchmarks/training/losses.py`), backward pass,
clipping, AdamW in a plain loop. Ours: the trainer's own step on the same batches. Peak: what two steps add to what was
resident."""

LOADER_NOTE = """The trainer's loader alone, without workers: it shuffles and noises text that was tokenised before (stored),
or reads, tokenises and packs it while training as well (streamed)."""

SHARES = [*KINDS, "optimizer", "all else"]
SHARES_NOTE = "Where the time of our step goes, by torch's profiler:"


@dataclass(frozen=True)
class Measured:
    """Of one process: medians over the rounds."""

    seconds: dict[str, float]
    """side -> seconds a step"""
    ratio: float
    """textbook's time / ours, the median of each round's"""
    difference: float
    """of the losses before the first step, relative"""
    flops_per_token: float
    loader: dict[str, float]
    """kind of feed -> tokens/s"""
    shares: dict[str, float]
    """of our step's time, on a CPU: shares.py"""


def measure(bench: Bench, process: str, rounds: int, steps: int, loader_batches: int) -> Measured:
    """Both sides in turn, `steps` of each a round, after an untimed step of each; then the loader."""
    run = bench.run(process)
    sides: dict[str, Side] = {name: make(run) for name, make in SIDES.items()}
    device, seconds = run.accelerator.device, {name: [0.0] * rounds for name in sides}
    with closing(run.feed.batches(0)) as batches:
        batch = next(batches)
        apart = difference(sides, batch)
        for side in sides.values():
            side.step(batch)
        for index in range(rounds):
            for batch in islice(batches, steps):
                for name, side in sides.items():
                    seconds[name][index] += timed(partial(side.step, batch), device) / steps
    ratio = median([a / b for a, b in zip(seconds["textbook"], seconds["ours"], strict=True)])
    feeds = {"stored": run.feed, "streamed": bench.streamed(run)}
    loader = {name: loader_speed(bench, feed, loader_batches) for name, feed in feeds.items()}
    medians = {name: median(each) for name, each in seconds.items()}
    spent = shares(partial(sides["ours"].step, batch)) if device.type == "cpu" else {}
    return Measured(medians, ratio, apart, flops_per_token(run.model, bench.seq_len), loader, spent)


def loader_speed(bench: Bench, feed: Feed, num_batches: int) -> float:
    """Tokens/s of the feed, from its second batch on."""
    with closing(feed.batches(0)) as batches:
        next(batches)
        return num_batches * bench.tokens / timed(lambda: list(islice(batches, num_batches)), feed.accelerator.device)


def flops_per_token(model: Any, seq_len: int) -> float:
    """Floating-point operations of a step's matrix products, a token: forwards and backwards, for each weight of a linear
    layer (the head is one) and for each position attended to."""
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    return 6 * weights + 12 * model.config.num_hidden_layers * model.config.hidden_size * seq_len


def peak_of_steps(bench: Bench, process: str, side: str) -> float:
    """MB that two steps add at their peak, in a process that does nothing else."""
    disable_progress_bar()
    prepare()  # as the trainer does
    run = bench.run(process)
    made, device = SIDES[side](run), run.accelerator.device
    with closing(run.feed.batches(0)) as batches:
        window = list(islice(batches, 2))
    with torch.no_grad():  # weights that are mapped from a file are resident only once they have been read
        for parameter in made.model.parameters():
            parameter.sum()
    return peak_mb(lambda: [made.step(batch) for batch in window], device)


def peak_mb(work: Callable[[], object], device: torch.device) -> float:
    """MB by which memory rises above where it was while `work` runs: allocated on CUDA, else resident (Linux).

    Not getrusage's ru_maxrss: a child's begins with that of the process that started it.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / MEGABYTE
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak becomes what is resident now
    resident = resident_mb()
    work()
    return resident_mb("VmHWM") - resident


def peaks(bench: Bench, process: str) -> dict[str, float]:
    """side -> MB, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, context, torch.set_num_threads, threads, max_tasks_per_child=1) as processes:
        return {side: processes.submit(peak_of_steps, bench, process, side).result() for side in SIDES}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=PROCESSES, help="some of the processes")
    parser.add_argument("--rounds", type=int, default=5, help="both sides are timed this often, in turn")
    parser.add_argument("--steps", type=int, default=1, help="steps of each side in a round")
    parser.add_argument("--per_device_train_batch_size", type=int, default=8, help="sequences a step")
    parser.add_argument("--max_length", type=int, default=128, help="tokens in a sequence")
    parser.add_argument("--loader_batches", type=int, default=200, help="batches that the loader alone is timed on")
    parser.add_argument("--peak_tflops", type=float, help="of the device in this type, 10^12 a second: tells MFU")


def section(arguments: argparse.Namespace) -> Section:
    """All tables, a row a process."""
    found = Section("training", "Training: a step and the loader", [NOTE])
    if arguments.dtype not in PRECISIONS:
        found.parts.append(f"Measured in {' or '.join(PRECISIONS)} alone.")
        return found
    repeats = (1, 1, 50) if arguments.quick else (arguments.rounds, arguments.steps, arguments.loader_batches)
    table = Table([*COLUMNS, *(["textbook MFU", "ours MFU"] if arguments.peak_tflops else [])])
    loaders, spent = Table(LOADER_COLUMNS), Table(["process", *SHARES])
    with TemporaryDirectory(prefix="token-diffusion-") as folder:
        sizes = arguments.per_device_train_batch_size, arguments.max_length
        bench = Bench(Path(folder), arguments.device, arguments.dtype, *sizes)
        bench.write()
        for process in arguments.only or PROCESSES:
            memory = peaks(bench, process)
            figures = measure(bench, process, *repeats)
            add_rows(table, loaders, bench, process, figures, memory, arguments.peak_tflops)
            if figures.shares:
                spent.add(process, *(f"{figures.shares[kind]:.0%}" for kind in SHARES))
            if arguments.dtype == "float32" and not figures.difference < TOLERANCE:
                found.failures.append(f"{process}: the losses differ by {figures.difference:.1e}")
    found.parts += [f"**{described(bench)}**", table, LOADER_NOTE, loaders]
    found.parts += [SHARES_NOTE, spent] if spent.rows else []
    return found


def described(bench: Bench) -> str:
    """The sizes, and what of the memory no loss can change."""
    parameters = random_model().num_parameters()
    logits, state = bench.tokens * VOCAB_SIZE * 4 / MEGABYTE, parameters * 12 / MEGABYTE
    return (
        f"{bench.batch_size} x {bench.seq_len} tokens, {parameters / 1e6:.1f} M parameters, whose gradients and moments take "
        f"{state:.0f} MB. A float32 tensor [B, L, V] takes {logits:.0f} MB."
    )


def add_rows(
    table: Table, loaders: Table, bench: Bench, process: str, figures: Measured, memory: dict[str, float], peak: Any
) -> None:
    """What was found of one process."""
    speed = {side: bench.tokens / seconds for side, seconds in figures.seconds.items()}
    mfu = [f"{each * figures.flops_per_token / (peak * 1e12):.1%}" for each in speed.values()] if peak else []
    ratio = memory["textbook"] / memory["ours"]
    apart = f"{figures.difference:.0e}"
    table.add(process, LOSSES[process].__name__, *speed.values(), figures.ratio, *memory.values(), ratio, apart, *mfu)
    for name, tokens in figures.loader.items():
        loaders.add(process, name, tokens, tokens / speed["ours"])
