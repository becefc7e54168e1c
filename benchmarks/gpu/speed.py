"""The samplers' table there; rows a second beside the bare compiled forward pass; and many requests at once."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from token_diffusion.engine.batch import Batch
from token_diffusion.networks.backends.compile import Asked
from token_diffusion.networks.masked_lm import Head, forward_arguments
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run

from ..environment import synchronize, timed
from ..figures import median
from ..models import random_model
from ..sampling.limit import Recorder, replay
from ..sampling.samplers import CASES, count_steps, full_logits, time_textbook
from ..sampling.textbook import TEXTBOOKS, Task
from .networks import denoiser, network, scheduler_for
from .notes import BACKENDS, Notes, Setting, peak_mb, products, reset_peak

SHAPES = {"22 M": (128, 128), "110 M": (64, 128), "1 B": (32, 128)}
"""Rows and tokens of each."""
STEPS = 32
OF_BARE = 0.7
"""Aim for rows a second beside the bare compiled forward pass."""
AT_ONCE, OF_ONE = 128, 20
"""So many requests at once are to have so many times the tokens/s of one."""


def samplers(setting: Setting, notes: Notes) -> None:
    """Textbook / ours / limit for each type of the weights and each backend; the settings are those of samplers.py."""
    rounds, steps = (1, 2) if setting.quick else (3, 4)
    for dtype in setting.dtypes:
        with products(dtype) as weights:
            model = network("tiny", setting.device, weights) if setting.tiny else random_model(setting.device, weights)
            asks: dict[str, Any] = {}
            for backend in BACKENDS:
                with notes.trying(f"samplers: {backend} in {dtype}"):
                    asks[backend] = denoiser(model, backend, weights)
            for name, case in list(CASES.items())[: 1 if setting.tiny else None]:
                if setting.is_over:
                    notes.say(f"No time was left for {name} in {dtype}.")
                    continue
                with notes.trying(f"samplers: {name} in {dtype}"):
                    scheduler = scheduler_for("tiny" if setting.tiny else "22 M", case.process)
                    task, textbook = Task(scheduler, case.parameters), TEXTBOOKS[case.textbooks[0]]
                    counts, plain = count_steps(textbook, case), full_logits(model)
                    theirs = time_textbook(textbook, plain, task, counts, steps, setting.where)
                    for backend, ask in asks.items():
                        ours = _ours(ask, scheduler, case.parameters, rounds, setting)
                        cells: dict[str, Any] = {
                            "sampler": name,
                            "samples x tokens, steps": case.setting,
                            "dtype": dtype,
                        }
                        cells |= {
                            "backend": backend,
                            "textbook": case.textbooks[0],
                            "textbook s": theirs,
                            "ours s": ours[0],
                        }
                        cells |= {"textbook / ours": theirs / ours[0], "forward passes alone s": ours[1]}
                        notes.row("Samplers", **cells, **{"ours / forward passes": ours[2]})
            del model, asks


def _ours(
    ask: Any, scheduler: Any, parameters: SamplingParameters, rounds: int, setting: Setting
) -> tuple[float, float, float]:
    """Seconds of a run, of its forward passes alone, and the median of their ratios; after a run that is not timed."""
    recorder = Recorder(ask)
    run(recorder, scheduler, parameters)
    ours, limit = [], []
    for _ in range(rounds):
        ours.append(timed(lambda: run(ask, scheduler, parameters), setting.where))
        limit.append(timed(lambda: replay(ask, recorder.calls), setting.where))
    return median(ours), median(limit), median([a / b for a, b in zip(ours, limit, strict=True)])


def rows(setting: Setting, notes: Notes) -> None:
    """Rows a second through `Batch` and of the compiled forward pass alone, memory, and how long compiling took."""
    dtype = setting.dtypes[0]
    for size, (count, length) in {"tiny": (4, 32)}.items() if setting.tiny else SHAPES.items():
        if setting.is_over:
            notes.say(f"No time was left for {size}.")
            continue
        with notes.trying(f"rows of {size}"):
            reset_peak(setting.where)
            model, found = network(size, setting.device, dtype), dict[str, tuple[float, float, float]]()
            asked = STEPS // 8 if setting.tiny else STEPS
            parameters = SamplingParameters(length, count, asked, seed=1)
            positions = max(1, count * length // asked)
            for backend in BACKENDS:
                with notes.trying(f"rows of {size} by {backend}"):
                    reset_peak(setting.where)
                    start = time.perf_counter()
                    ask = denoiser(model, backend, dtype)
                    seconds = time.perf_counter() - start
                    work = partial(run, ask, scheduler_for(size), parameters)
                    work()  # shapes are recorded
                    taken = timed(work, setting.where)
                    found[backend] = count * asked / taken, seconds, peak_mb(setting.where)
            bare = float("nan")
            with notes.trying(f"bare compiled forward pass of {size}"):
                bare = count / bare_pass(model, count, length, positions, setting)
            for backend, (speed, seconds, peak) in found.items():
                cells: dict[str, Any] = {
                    "parameters": size,
                    "rows x tokens": f"{count} x {length}",
                    "dtype": dtype,
                    "backend": backend,
                }
                cells |= {"rows/s": speed, "bare compiled rows/s": bare, "ours / bare": speed / bare, "aim": OF_BARE}
                notes.row("Rows a second", **cells, **{"ready after s": seconds, "peak MB": peak})
                if backend == "compile" and not setting.tiny and speed / bare < OF_BARE:
                    notes.fail(f"{size}: {speed / bare:.2f} of the bare compiled forward pass' rows/s, not {OF_BARE}")
            del model


@torch.inference_mode()
def bare_pass(model: Any, count: int, length: int, positions: int, setting: Setting) -> float:
    """Seconds of a forward pass with the head at so many positions, compiled for this one shape, passes queued without a wait."""
    asked = Asked(model, Head(model).gathers)
    try:
        forward = torch.compile(asked, dynamic=False)
        tokens = torch.zeros(count, length, dtype=torch.int64, device=setting.where)
        t = torch.full((count,), 0.5, device=setting.where)
        given: dict[str, Tensor] = forward_arguments(model, tokens, t, torch.ones_like(tokens))
        places = torch.arange(positions, device=setting.where) * (count * length // positions)
        for _ in range(3):
            forward(positions=places, **given)
        repeats = 2 if setting.tiny else 30

        def passes() -> None:
            for _ in range(repeats):
                forward(positions=places, **given)

        return median([timed(passes, setting.where) / repeats for _ in range(3)])
    finally:
        if asked.hook is not None:
            asked.hook.remove()


def scale(setting: Setting, notes: Notes) -> None:
    """Requests of one sample each, all there at once: completion tokens a second through `Batch`."""
    dtype, size = setting.dtypes[0], "tiny" if setting.tiny else "22 M"
    model = network(size, setting.device, dtype)
    for backend in BACKENDS:
        with notes.trying(f"requests at once by {backend}"):
            ask, one = denoiser(model, backend, dtype), float("nan")
            for count in (1, 4) if setting.tiny else (1, 16, AT_ONCE, 1024):
                if setting.is_over:
                    notes.say(f"No time was left for {count} requests at once by {backend}.")
                    continue
                reset_peak(setting.where)
                _together(ask, size, count, setting)  # shapes are recorded
                seconds, ticks = _together(ask, size, count, setting)
                speed = count * 64 / seconds
                one = speed if count == 1 else one
                cells: dict[str, Any] = {
                    "backend": backend,
                    "dtype": dtype,
                    "requests at once": count,
                    "tokens/s": speed,
                }
                cells |= {
                    "times one": speed / one,
                    "a tick ms": seconds / ticks * 1e3,
                    "peak MB": peak_mb(setting.where),
                }
                notes.row("Requests at once", **cells)
                if backend == "compile" and count == AT_ONCE and speed < OF_ONE * one:
                    notes.fail(
                        f"{count} requests at once have {speed / one:.1f} times the tokens/s of one, not {OF_ONE}"
                    )


def _together(ask: Any, size: str, count: int, setting: Setting) -> tuple[float, int]:
    """Seconds until all are done, and ticks; 64 tokens in 64 steps each."""
    batch, ticks = Batch(ask, scheduler_for(size), max_tokens=65536), 0
    for key in range(count):
        batch.add(key, [-1] * 64, SamplingParameters(64, 1, 8 if setting.tiny else 64, seed=key))
    synchronize(setting.where)
    start = time.perf_counter()
    while not batch.idle:
        batch.step()
        ticks += 1
    return time.perf_counter() - start, ticks
