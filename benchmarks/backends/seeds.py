"""The settings of the original example scripts by every backend: against the textbook, torch in float32, and their limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.sampling import run

from ..environment import timed
from ..figures import median
from ..models import MASK, VOCAB_SIZE, random_model, save_random
from ..report import Table
from ..sampling.limit import Recorder, replay
from ..sampling.samplers import CASES, Case, count_steps, full_logits, time_textbook
from ..sampling.textbook import TEXTBOOKS, Task
from .contenders import DTYPES, Contender, willing

CPU = torch.device("cpu")
AIMS = {"float32": 1.3, "bfloat16": 3.0}
"""torch in float32 / a backend's time; the second where the CPU has AMX."""

COLUMNS = ["sampler", "samples x tokens, steps", "textbook s", "by", "type", "ours s", "textbook / ours"]
COLUMNS += ["torch float32 / ours", "aim", "forward passes alone s", "ours / forward passes"]


@dataclass
class Times:
    """Seconds of each round: our sampler, and its forward passes made again with no sampler around them."""

    ours: list[float] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)


def seeds(root: Path, backends: list[str], names: list[str], rounds: int, samples: int) -> Table:
    """One table, a row a sampler, backend and type; the textbook runs in float32."""
    table = Table(COLUMNS)
    for name in names:
        case = CASES[name]
        folder = save_random(root / name, case.process)
        contenders = willing([Contender(folder, backend, dtype) for dtype in DTYPES for backend in backends])
        textbook, found = measure(case, contenders, rounds, samples)
        base = next(
            (found[each].ours for each in contenders if (each.backend, each.dtype) == ("torch", "float32")), []
        )
        for each in contenders:
            ours, limit = found[each].ours, found[each].limit
            sooner = median(_ratios(base, ours)) if base else "-"
            table.add(
                name,
                case.setting,
                median(textbook),
                each.backend,
                each.dtype,
                median(ours),
                median(_ratios(textbook, ours)),
                sooner,
                "" if each.backend == "torch" and each.dtype == "float32" else aim(each.dtype),
                median(limit),
                median(_ratios(ours, limit)),
            )
    return table


def aim(dtype: str) -> str:
    """As it stands in the table."""
    if dtype == "bfloat16" and not torch.cpu._is_amx_tile_supported():
        return "no AMX here"
    return f"{AIMS[dtype]:g}"


def measure(
    case: Case, contenders: list[Contender], rounds: int, samples: int
) -> tuple[list[float], dict[Contender, Times]]:
    """The first of the case's textbooks, extrapolated from `samples` of its steps, and all contenders, in turn."""
    scheduler = TokenDiffusionScheduler(VOCAB_SIZE, MASK, forward_process=case.process)
    textbook, network, task = (
        TEXTBOOKS[case.textbooks[0]],
        full_logits(random_model()),
        Task(scheduler, case.parameters),
    )
    counts, theirs = count_steps(textbook, case), list[float]()
    recorders = {each: Recorder(each.denoiser) for each in contenders}
    for recorder in recorders.values():
        run(recorder, scheduler, case.parameters)  # untimed: a backend may compile what it has not seen
    found = {each: Times() for each in contenders}
    for _ in range(rounds):
        theirs.append(time_textbook(textbook, network, task, counts, samples, CPU))
        for each, recorder in recorders.items():
            ours = partial(run, each.denoiser, scheduler, case.parameters)
            found[each].ours.append(timed(ours, CPU))
            found[each].limit.append(timed(partial(replay, each.denoiser, recorder.calls), CPU))
    return theirs, found


def _ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]
