"""What each decoder adds to the forward passes that it asks for.

    python -m benchmarks overhead [--rounds N]

On random weights at the size of the original example scripts, a prompt before what is filled in.
A run is recorded once; the passes are then made again with the head at the very positions that each tick asked for, and
nothing around them. Both take turns, and a ratio is the median over the rounds of the two times of that round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.diffusion.values import check_int
from token_diffusion.networks.denoiser import Denoiser
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from token_diffusion.text.encoding import OPEN

from ..environment import timed
from ..figures import median
from ..models import MASK, PROCESSES, VOCAB_SIZE, as_loaded, random_model
from ..report import Section, Table
from ..sampling.limit import Recorder, replay
from .settings import guided, settings

AIM = 1.15
NUCLEUS = 0.9

NOTE = """{millions:.1f} M random parameters, {count} x {seq_len} tokens of which {given} are a prompt,
{steps} steps where a decoder has steps. Forward passes alone: the very ones of our run, with the head at the positions that each
tick asked for. Shaped: the same with top-p {nucleus}. Aim: at most {aim} times their time with top-p 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=32, help="where a decoder has steps")


def section(arguments: argparse.Namespace) -> Section:
    """One table, and a failure for each decoder that adds more than it should."""
    found, rounds = Section("overhead", "Decoders: overhead over their forward passes"), arguments.rounds
    for name in ("rounds", "steps"):
        check_int(name, getattr(arguments, name), 1, 2**31)
    rounds = min(rounds, 1) if arguments.quick else rounds
    count, seq_len, steps = 4, 64, min(arguments.steps, 16) if arguments.quick else arguments.steps
    prompt = list(range(1000, 1008))
    model = random_model(arguments.device, arguments.dtype)
    denoiser, table = (
        as_loaded(model),
        Table(["process", "decoder", "evaluations", "ours s", "forward passes alone s"]),
    )
    table.columns = [*table.columns, "ours / forward passes", "shaped"]
    for process in PROCESSES:
        scheduler = TokenDiffusionScheduler(VOCAB_SIZE, MASK, forward_process=process)
        curves = {
            setting.name: setting for setting in reversed([*settings(process, [steps]), *guided(process, steps)])
        }
        for setting in reversed(curves.values()):  # the first of each, as a rule's value is not what takes time
            print(f"overhead: {process}, {setting.name} {setting.budget}", file=sys.stderr, flush=True)
            plain, shaped = (
                measure(denoiser, scheduler, setting.parameters(seq_len, count, top_p=top_p), rounds, prompt)
                for top_p in (1.0, NUCLEUS)
            )
            table.add(process, setting.label, plain.passes, plain.ours, plain.alone, plain.ratio, shaped.ratio)
            if plain.ratio > AIM:
                found.failures.append(
                    f"{setting.label} ({process}) takes {plain.ratio:.2f} of its forward passes' time, not {AIM}"
                )
    millions = model.num_parameters() / 1e6
    shape = {"count": count, "seq_len": seq_len, "steps": steps, "given": len(prompt)}
    found.parts += [NOTE.format(millions=millions, nucleus=NUCLEUS, aim=AIM, **shape), table]
    return found


@dataclass(frozen=True)
class Overhead:
    """Seconds of a run and of its forward passes alone, medians; their ratio, the median of those of the rounds."""

    passes: int
    ours: float
    alone: float
    ratio: float


def measure(
    denoiser: Denoiser,
    scheduler: TokenDiffusionScheduler,
    parameters: SamplingParameters,
    rounds: int,
    prompt: Sequence[int] = (),
) -> Overhead:
    """A run and its forward passes in turn, `rounds` times, after one untimed run."""
    tokens = [*prompt, *[OPEN] * (parameters.seq_len - len(prompt))]
    device = torch.device(denoiser.device)
    recorder = Recorder(denoiser)
    run(recorder, scheduler, parameters, tokens)
    ours, alone = [], []
    for _ in range(rounds):
        ours.append(timed(lambda: run(denoiser, scheduler, parameters, tokens), device))
        alone.append(timed(lambda: replay(denoiser, recorder.calls), device))
    ratios = [a / b for a, b in zip(ours, alone, strict=True)]
    return Overhead(len(recorder.calls), median(ours), median(alone), median(ratios))
