"""What a decoder adds to the forward passes that it asks for.

Its run is recorded once; the passes are then made again with the head at the very positions that each tick asked for, and
nothing around them. Both take turns, and a ratio is the median over the rounds of the two times of that round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.networks.denoiser import Denoiser
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from token_diffusion.text.encoding import OPEN

from ..environment import timed
from ..figures import median
from ..limit import Recorder, replay

AIM = 1.15
NUCLEUS = 0.9


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
