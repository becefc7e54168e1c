"""Whether what is drawn there is right: the tests that are marked `gpu`, and the seed contract on the demos."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run

from .. import ROOT
from ..models import DEMOS
from ..sampling.determinism import Mode, compare, make_requests
from .notes import BACKENDS, Notes, Setting, products

MOST_DIFFERING = 0.1
"""Share of requests of which rounding may change a token somewhere; a wrong draw changes all."""


def tests(setting: Setting, notes: Notes) -> None:
    """`pytest -m gpu`: samplers' laws, generators, pipelines, seeds."""
    marked = [
        str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")
    ]
    variables = {**os.environ, "TD_TEST_DEVICE": setting.device} | ({"OMP_NUM_THREADS": "1"} if setting.tiny else {})
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}", *marked]
        if setting.quick:
            command += ["-k", "law"]
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
        if not report.exists():
            notes.fail(f"pytest -m gpu gave no report: {(done.stdout + done.stderr).strip()[-500:]}")
            return
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    outcomes: dict[tuple[str, str], int] = {}
    for case in cases:
        ends = {end.tag: end for end in case}
        outcome = next((tag for tag in ("failure", "error", "skipped") if tag in ends), "passed")
        name = str(case.get("name")).partition("[")[0]
        outcomes[name, outcome] = outcomes.get((name, outcome), 0) + 1
        if outcome in ("failure", "error"):
            notes.fail(f"{case.get('name')}: {' '.join(str(ends[outcome].get('message')).split())[:300]}")
    for (name, outcome), count in outcomes.items():
        notes.row("Tests", test=name, outcome=outcome, cases=count)


@dataclass
class Differing:
    requests: int = 0
    differing: int = 0

    @property
    def share(self) -> float:
        return self.differing / max(self.requests, 1)


def seeds(setting: Setting, notes: Notes) -> None:
    """Requests with any differing token: against the CPU, and alone against among others, in each mode."""
    count = 3 if setting.tiny else 8 if setting.quick else 20
    for dtype in ("float32",) if setting.tiny else ("float32", "bfloat16"):
        for backend in BACKENDS:
            for number, (name, folder) in enumerate(DEMOS.items()):
                if setting.tiny and number:
                    continue
                if setting.is_over:
                    notes.say(f"No time was left for seeds of {name} by {backend} in {dtype}.")
                    continue
                with notes.trying(f"seeds of {name}, {backend}, {dtype}"), products(dtype) as weights:
                    there = load_checkpoint(folder, device=setting.device, dtype=weights, backend=backend)
                    here = load_checkpoint(folder, dtype=weights)
                    requests = make_requests(count, seed=number)
                    if setting.tiny:
                        requests = [replace(each, num_inference_steps=2, num_samples=1) for each in requests]
                    _note(notes, (name, backend, dtype), here, there, requests)


def _note(
    notes: Notes, row: tuple[str, str, str], here: Checkpoint, there: Checkpoint, requests: list[SamplingParameters]
) -> None:
    name, backend, dtype = row
    found = {"CPU = GPU": Differing()}
    for parameters in requests:
        one, other = (run(each.denoiser, each.scheduler, parameters).sequences for each in (here, there))
        found["CPU = GPU"].requests += 1
        found["CPU = GPU"].differing += not one.equal(other)
    modes: tuple[Mode, ...] = ("fast", "exact")
    for mode in modes:
        both = found[f"alone = among others, {mode}"] = Differing()
        for each in compare(there, mode, requests).values():
            both.requests, both.differing = both.requests + each.requests, both.differing + each.differing
    for contract, count in found.items():
        cells = {"contract": contract, "requests": count.requests, "differing": count.differing}
        notes.row("Same seed, same tokens", demo=name, backend=backend, dtype=dtype, **cells)
    if (exact := found["alone = among others, exact"]).differing:
        notes.fail(f"{name}, {backend}, {dtype}: {exact.differing} of {exact.requests} requests differ in mode exact")
    if dtype == "float32" and found["CPU = GPU"].share > MOST_DIFFERING:
        notes.fail(f"{name}, {backend}: {found['CPU = GPU'].share:.0%} of the requests differ from the CPU's")
