"""The server on a GPU: closed loops of clients, time to first state, and what HTTP costs beside the engine alone."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from token_diffusion.checkpoint import load_checkpoint

from ..models import DEMOS, save_random
from ..serving.direct import drive
from ..serving.load import Plan, generate
from ..serving.measure import Summary
from ..serving.process import checkpoint_flags, serving
from ..serving.traffic import endpoints
from .notes import BACKENDS, Notes, Setting

TARGET = 0.9
"""Share of the engine's tokens/s that must be left over HTTP."""
START_S = 100.0


def server(setting: Setting, notes: Notes) -> None:
    """A server a backend, of one absorbing checkpoint: `/sample` and `/sample/block`."""
    dtype = setting.dtypes[0]
    with TemporaryDirectory(prefix="token-diffusion-") as root:
        folder = DEMOS["mdlm"] if setting.tiny else save_random(Path(root) / "random", "absorbing")
        for backend in reversed(BACKENDS[: 1 if setting.tiny else None]):  # the one that is for GPUs first
            if setting.is_over:
                notes.say(f"No time was left for the server with {backend}.")
                continue
            with notes.trying(f"the server with {backend}"):
                _serve(folder, backend, dtype, setting, notes)


def _serve(folder: Path, backend: str, dtype: str, setting: Setting, notes: Notes) -> None:
    paths, seconds = {"absorbing": folder}, 2.0 if setting.tiny else 6.0
    plan = Plan("", endpoints({"absorbing": "absorbing"}), seconds, warmup=1.0, drain=2.0)
    if setting.tiny:
        plan = replace(plan, limits={"most_tokens": 64, "most_steps": 8})
    flags = ["--device", setting.device, "--dtype", dtype, "--backend", backend]
    with serving("server", [*checkpoint_flags(paths), *flags], start_s=START_S) as running:
        plan = replace(plan, url=running.url)
        generate(replace(plan, closed=16, requests=4 if setting.tiny else 32))  # shapes are recorded
        for clients in (1, 4) if setting.tiny else (1, 16, 128):
            if setting.is_over:
                notes.say(f"No time was left for {clients} clients with {backend}.")
                continue
            summary = generate(replace(plan, closed=clients)).summary
            _note(notes, summary, backend, clients)
        if setting.is_over:
            return
        count = 4 if setting.tiny else 64
        plan = replace(plan, closed=16, requests=count)
        checkpoints = {"absorbing": load_checkpoint(folder, device=setting.device, dtype=dtype, backend=backend)}
        drive(checkpoints, plan, 65536)  # as for the server
        http, engine = generate(plan).summary.tokens_per_s, drive(checkpoints, plan, 65536).summary.tokens_per_s
        cells = {"backend": backend, "requests": count, "HTTP tokens/s": http, "engine alone tokens/s": engine}
        notes.row("What HTTP costs", **cells, **{"HTTP / engine": http / engine, "target": TARGET})
        if backend == "compile" and http < TARGET * engine:
            notes.fail(f"over HTTP {http / engine:.2f} of the engine's tokens/s are left, not {TARGET}")


def _note(notes: Notes, summary: Summary, backend: str, clients: int) -> None:
    found = asdict(summary)
    cells = {"backend": backend, "clients": clients, "tokens/s": found["tokens_per_s"], "NFE/s": found["nfe_per_s"]}
    for name in ("first_state", "gap", "total"):
        for percent in ("p50", "p99"):
            cells[f"{name.replace('_', ' ')} {percent} ms"] = found[f"{name}_{percent}"] * 1e3
    notes.row("Server", **cells)
    if summary.broken:
        notes.fail(f"{summary.broken} requests failed with {clients} clients and {backend}")
