"""Each offline sampler against the loop as its authors' code runs it, and against its own bare forward passes.

    python -m benchmarks samplers [--only mdlm udlm hybrid block] [--quick]

Textbook, ours and limit take turns in one process on the same weights: the textbook on the network as transformers loads
it, ours and the limit on what `load_checkpoint` makes of it (networks/cpu/packing.py), all with the same allocator. A
ratio is the median over the rounds of the two times of that round. Ours and the limit run whole. Of a textbook loop, which
may take many minutes, a few steps are timed, spread evenly over its grid, each on a state noised as that step would find it;
their mean is multiplied by the number of steps, which is counted in a dry run of the same loop on a network of 64 tokens: how
often a loop that keeps theta evaluates its network does not depend on the weights (absorbing) or hardly does (uniform). The
limit: limit.py.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.networks.masked_lm import forward_arguments
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import SampleOutput, run

from ..environment import synchronize, timed
from ..figures import median
from ..models import DEMOS, MASK, VOCAB_SIZE, as_loaded, plain_model, random_model
from ..report import Section, Table
from .limit import Recorder, replay
from .textbook import TEXTBOOKS, Network, Task, Textbook

DRY_VOCAB_SIZE = 64
MOST_OVER_LIMIT = 1.15
"""Aim for ours / the bare forward passes."""

NOTE = """Textbook: the loop as the named authors' code runs it (which choices are whose: `benchmarks/sampling/textbook.py`), on
the network as transformers loads it, its time extrapolated from a few of its steps. Ours runs whole, on what `load_checkpoint`
makes of that network. "Forward passes alone" are the very calls of the network that our run made, made again with no sampler
around them, so that ours / forward passes is our own overhead. `bd3lms` shows the network a window that ends with the active
block, ours and `diffusers #12911` the whole sequence with the masks to come."""


@dataclass(frozen=True)
class Case:
    """A setting of the original example scripts, the demo of its process, and whose loops it is held against.

    aim: how many times faster than the first of them on random weights.
    """

    process: str
    demo: str
    textbooks: tuple[str, ...]
    aim: float
    parameters: SamplingParameters

    @property
    def setting(self) -> str:
        p = self.parameters
        block = f", blocks of {p.block_size}, top-p {p.top_p}" if p.block_size else ""
        return f"{p.num_samples} x {p.seq_len}, {p.num_inference_steps}{block}"


CASES = {
    "mdlm": Case("absorbing", "mdlm", ("mdlm, ddpm_cache", "mdlm, ddpm"), 9, SamplingParameters(64, 4, 128)),
    "udlm": Case("uniform", "udlm", ("udlm", "duo, float64"), 4, SamplingParameters(64, 4, 128)),
    "hybrid": Case("hybrid", "hybrid", ("gidd",), 8, SamplingParameters(256, 4, 64)),
    "block": Case(
        "absorbing",
        "mdlm",
        ("diffusers #12911", "bd3lms"),
        18,
        SamplingParameters(256, 4, 64, top_p=0.9, block_size=32),
    ),
}


def full_logits(model: Any) -> Network:
    """The plain forward pass of a masked LM, told the time if it asks for it."""

    def network(tokens: Tensor, t: float) -> Tensor:
        times = torch.full((len(tokens),), t, device=tokens.device)
        return model(**forward_arguments(model, tokens, times, torch.ones_like(tokens))).logits

    return network


def state_at(task: Task, k: int, vocab_size: int, device: torch.device) -> Tensor:
    """Tokens [B, L] as step k finds them: blocks before it filled, its own noised to its time, those after it at t = 1."""
    shape = (task.parameters.num_samples, task.parameters.seq_len)
    text = torch.randint(0, vocab_size, shape)
    text = text + (text == task.mask).long()
    start, end = task.block(k)
    done = k % task.num_steps / task.num_steps if k < task.num_steps * task.num_blocks else 1.0
    t = torch.zeros(shape, dtype=torch.float64)
    t[:, start:end], t[:, end:] = 1 - done, 1.0
    noised = task.scheduler.add_noise(text, timesteps=t.clamp(min=1e-9))
    return torch.where(t > 0, noised, text).to(device)


def count_steps(textbook: Textbook, case: Case) -> tuple[int, int]:
    """(steps that evaluate the network, steps that use what was kept) of one run of the loop."""
    scheduler = TokenDiffusionScheduler(DRY_VOCAB_SIZE, 0, forward_process=case.process)
    task, calls = Task(scheduler, case.parameters), 0

    def network(tokens: Tensor, t: float) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros(*tokens.shape, DRY_VOCAB_SIZE)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        z = scheduler.sample_prior((case.parameters.num_samples, case.parameters.seq_len))
        steps = sum(1 for _ in textbook.run(network, task, z))
    return calls, steps - calls


@torch.inference_mode()
def time_textbook(
    textbook: Textbook, network: Network, task: Task, counts: tuple[int, int], samples: int, device: torch.device
) -> float:
    """Seconds of the whole loop, from `samples` of its steps; counts: `count_steps`."""
    seconds = [0.0, 0.0]
    for index in range(samples):
        k = int((index + 0.5) * textbook.steps(task) / samples)
        z, theta = state_at(task, k, task.process.states.vocab_size, device), None
        for kind in (0, 1) if counts[1] else (0,):
            synchronize(device)
            start = time.perf_counter()
            _, theta = textbook.step(network, task, z, k, theta)
            synchronize(device)
            seconds[kind] += time.perf_counter() - start
    return sum(count * total / samples for count, total in zip(counts, seconds, strict=True))


@dataclass(frozen=True)
class Measured:
    """Seconds, medians over the rounds, and medians of the ratios of each round."""

    textbooks: dict[str, tuple[float, float]]
    """name -> (seconds, its time / ours)"""
    ours: float
    limit: float
    over_limit: float
    nfe: int
    steps: int


def measure(model: Any, scheduler: TokenDiffusionScheduler, case: Case, rounds: int, samples: int) -> Measured:
    """Textbook, ours and limit in turn, `rounds` times, after one untimed run of ours."""
    denoiser = as_loaded(model)
    device, task, network = denoiser.device, Task(scheduler, case.parameters), full_logits(model)
    counts = {name: count_steps(TEXTBOOKS[name], case) for name in case.textbooks}
    recorder = Recorder(denoiser)
    output: SampleOutput = run(recorder, scheduler, case.parameters)
    theirs: dict[str, list[float]] = {name: [] for name in case.textbooks}
    ours, limit = [], []
    for _ in range(rounds):
        for name in case.textbooks:
            seconds = time_textbook(TEXTBOOKS[name], network, task, counts[name], samples, device)
            theirs[name].append(seconds)
        ours.append(timed(lambda: run(denoiser, scheduler, case.parameters), device))
        limit.append(timed(lambda: replay(denoiser, recorder.calls), device))
    return Measured(
        {name: (median(each), median(_ratios(each, ours))) for name, each in theirs.items()},
        median(ours),
        median(limit),
        median(_ratios(ours, limit)),
        output.nfe,
        output.nfe + output.forwards_skipped,
    )


def _ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=list(CASES), help="some of the samplers")
    parser.add_argument(
        "--textbook_steps", type=int, default=8, help="steps of a textbook loop that are timed a round"
    )
    parser.add_argument("--rounds", type=int, default=3, help="all sides are timed this often, in turn")


def section(arguments: argparse.Namespace) -> Section:
    """Both tables: random weights of BERT's vocabulary, and the demo checkpoints."""
    rounds, samples = (1, 2) if arguments.quick else (arguments.rounds, arguments.textbook_steps)
    found = Section("samplers", "Offline samplers: textbook, ours, limit", [NOTE])
    columns = ["sampler", "samples x tokens, steps", "textbook", "textbook s", "ours s", "textbook / ours"]
    columns += ["aim", "forward passes alone s", "ours / forward passes", "evaluations of steps"]
    model = random_model(arguments.device, arguments.dtype)
    for weights in ("random", "demo"):
        table = Table(columns)
        for name in arguments.only or CASES:
            case = CASES[name]
            if weights == "random":
                scheduler = TokenDiffusionScheduler(VOCAB_SIZE, MASK, forward_process=case.process)
            else:
                model = plain_model(DEMOS[case.demo], arguments.device, arguments.dtype)
                scheduler = TokenDiffusionScheduler.from_pretrained(DEMOS[case.demo])
            figures = measure(model, scheduler, case, rounds, samples)
            add_rows(table, name, case, figures, weights == "random")
            if weights == "random":
                found.failures += missed(name, case, figures)
        millions = model.num_parameters() / 1e6
        found.parts += [f"**{weights.capitalize()} weights**, {millions:.1f} M parameters:", table]
    return found


def missed(name: str, case: Case, figures: Measured) -> list[str]:
    """The aims that were not reached."""
    ratio, found = figures.textbooks[case.textbooks[0]][1], []
    if ratio < case.aim:
        found.append(f"{name} is {ratio:.1f} times as fast as {case.textbooks[0]}, not {case.aim:g} times")
    if figures.over_limit > MOST_OVER_LIMIT:
        found.append(f"{name} takes {figures.over_limit:.2f} of its forward passes' time, not {MOST_OVER_LIMIT}")
    return found


def add_rows(table: Table, name: str, case: Case, figures: Measured, with_aim: bool) -> None:
    """One row a textbook; what is ours stands in the first one."""
    aim = f"{case.aim:g}" if with_aim else ""
    own = (aim, figures.limit, figures.over_limit, f"{figures.nfe} of {figures.steps}")
    for index, (textbook, (seconds, ratio)) in enumerate(figures.textbooks.items()):
        rest = own if index == 0 else ("", "", "", "")
        table.add(name, case.setting, textbook, seconds, figures.ours, ratio, *rest)
