"""What a narrower type of the weights buys on this CPU, and what it does to the network's answers.

    python -m benchmarks precision [--quick]

The offline samplers at the settings of sampling/samplers.py, float32 and the others in turn in one process. How far the answers
are off is told on a demo, whose answers mean something: the mean absolute difference of the log-probabilities, in nats, of tokens
that the float32 network holds for at least as likely as one in a thousand, on half-masked text of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from token_diffusion import sample
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.sampling import run

from ..environment import timed
from ..figures import median
from ..models import DEMOS, save_random
from ..report import Section, Table
from ..sampling.samplers import CASES

DTYPES = ("bfloat16", "int8")

NOTE = """int8 has int8 weights in the linear layers of the body and gives each row a forward pass of its own, so that
neighbours cannot change its scales. Answers: mean absolute error of ln p, in nats, on the MDLM demo."""


def error(exact: Checkpoint, other: Checkpoint) -> float:
    """Mean |ln p - ln p'| over tokens with p >= 1e-3, at the masked positions of 8 half-masked samples."""
    mask = exact.scheduler.config["mask_token_id"]
    tokens = sample(exact.denoiser, exact.scheduler, num_samples=8, seq_len=64, num_inference_steps=64).sequences
    hidden = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    tokens[hidden] = mask
    arguments = (tokens, torch.full((8,), 0.5), torch.ones_like(hidden), hidden.flatten().nonzero().squeeze(1))
    ours, theirs = (each.denoiser(*arguments).float().log_softmax(-1) for each in (exact, other))
    return float((ours - theirs).abs()[ours.exp() >= 1e-3].mean())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="all types run this often, in turn")


def section(arguments: argparse.Namespace) -> Section:
    """float32 / another type, for each sampler."""
    found = Section("precision", "Precision: narrower weights on the CPU", [NOTE])
    if arguments.device != "cpu":
        found.parts.append("Measured on the CPU alone.")
        return found
    rounds = 1 if arguments.quick else arguments.rounds
    demo = load_checkpoint(DEMOS["mdlm"])
    errors = {dtype: error(demo, load_checkpoint(DEMOS["mdlm"], dtype=dtype)) for dtype in DTYPES}
    table = Table(["sampler", "samples x tokens, steps", "float32 s", *(f"float32 / {dtype}" for dtype in DTYPES)])
    with TemporaryDirectory(prefix="token-diffusion-") as root:
        for name, case in list(CASES.items())[: 1 if arguments.quick else None]:
            folder = save_random(Path(root) / name, case.process)
            checkpoints = [load_checkpoint(folder, dtype=dtype) for dtype in ("float32", *DTYPES)]
            rows = [[_seconds(each, name) for each in checkpoints] for _ in range(rounds)]
            ratios = [median([row[0] / row[index] for row in rows]) for index in (1, 2)]
            table.add(name, case.setting, median([row[0] for row in rows]), *ratios)
    table.add("error of ln p", "8 x 64, half masked", "", *errors.values())
    found.parts.append(table)
    return found


def _seconds(checkpoint: Checkpoint, name: str) -> float:
    return timed(
        lambda: run(checkpoint.denoiser, checkpoint.scheduler, CASES[name].parameters), checkpoint.denoiser.device
    )
