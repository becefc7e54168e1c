"""What a tick makes the CPU wait for: by torch's own warnings of waits, and as the profiler saw it."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from token_diffusion.engine.batch import Batch
from token_diffusion.samplers.parameters import SamplingParameters

from ..environment import synchronize
from .networks import denoiser, network, scheduler_for
from .notes import BACKENDS, Notes, Setting

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ancestral": ("absorbing", {}),
    "ancestral, top-p": ("absorbing", {"top_p": 0.9}),
    "confidence": ("absorbing", {"sampler": "confidence"}),
    "uniform": ("uniform", {}),
}
MOST = {"confidence": 2}
"""Waits of a tick: for the draws; and for the ranks before them."""
WARM, TICKS = 8, 16
TITLE = "What a tick waits for"


def waits(setting: Setting, notes: Notes) -> None:
    """A row a backend and sampler: waits and copies a tick, and where torch saw waits."""
    size = "tiny" if setting.tiny else "22 M"
    dtype = "float32" if setting.tiny else "bfloat16"
    for backend in BACKENDS:
        with notes.trying(f"{backend} for waits"):
            ask = denoiser(network(size, setting.device, dtype), backend, dtype)
            for name, (process, more) in SAMPLERS.items():
                if setting.is_over or (setting.tiny and name == "ancestral, top-p"):
                    continue
                with notes.trying(f"waits of {name} by {backend}"):
                    batch = Batch(ask, scheduler_for(size, process))
                    # uniform's later steps ask for few positions: others are recorded meanwhile, which is no tick's own work
                    parameters = SamplingParameters(64, 16, 64, seed=1, **more)
                    _warm(batch, parameters, setting)
                    seen = _seen(batch, setting)
                    notes.row(TITLE, backend=backend, sampler=name, **seen)
                    if backend == "compile" and not setting.tiny and seen["waits"] > MOST.get(name, 1):
                        notes.fail(f"a tick of {name} by {backend} waits {seen['waits']:.1f} times for the device")


def _warm(batch: Batch, parameters: SamplingParameters, setting: Setting) -> None:
    """A request to its end, so that its shapes are recorded, and the first ticks of the one that is looked at."""
    for key in (0, 1):
        batch.add(key, [-1] * parameters.seq_len, parameters)
        while not batch.idle:
            batch.step()
    batch.add(2, [-1] * parameters.seq_len, parameters)
    for _ in range(WARM):
        batch.step()
    synchronize(setting.where)


def _seen(batch: Batch, setting: Setting) -> dict[str, Any]:
    """The next ticks: timed, then under torch's warnings, then under the profiler, a third of them each."""
    start = time.perf_counter()
    for _ in range(TICKS):
        batch.step()
    seconds = time.perf_counter() - start
    places = _warned(batch, setting)
    activities = [ProfilerActivity.CPU, *([] if setting.tiny else [ProfilerActivity.CUDA])]
    with profile(activities=activities) as profiled:
        for _ in range(TICKS):
            batch.step()
        synchronize(setting.where)
    names = Counter({event.key: event.count for event in profiled.key_averages()})

    def per_tick(*parts: str) -> float:
        return sum(count for name, count in names.items() if any(part in name for part in parts)) / TICKS

    return {
        "tick ms": seconds / TICKS * 1e3,
        "waits": sum(places.values()) / TICKS,
        "copies to the CPU": per_tick("Memcpy DtoH"),
        "copies to the device": per_tick("Memcpy HtoD"),
        "synchronisations": per_tick("cudaStreamSynchronize", "cudaEventSynchronize"),
        "launches": per_tick("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"),
        "where": "; ".join(f"{place} ({count})" for place, count in places.most_common(3)),
    }


def _warned(batch: Batch, setting: Setting) -> Counter[str]:
    """Where torch says that it waited; with the file and line that called it."""
    found: Counter[str] = Counter()
    if setting.tiny:
        for _ in range(TICKS):
            batch.step()
        return found
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(TICKS):
                batch.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "synchroniz" in str(warning.message):
            found[f"{'/'.join(warning.filename.split('/')[-2:])}:{warning.lineno}"] += 1
    return found
