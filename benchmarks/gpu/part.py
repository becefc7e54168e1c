"""What a GPU does: whether it is right, then how fast it is. Ends within ten minutes, and at once where there is no GPU.

    python -m benchmarks gpu [--quick] [--output docs/benchmarks.md] [--only tests waits ...]
    python -m benchmarks gpu --device cpu --quick      every line of it, at tiny sizes, whose figures mean nothing

Each measurement (one.py has them) is a process of its own with a time of its own: what fails, hangs or takes the driver with it
is told with its last words, and the next one goes on. What each has noted lies beside the page, as it was noted (`--raw`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from .. import ROOT
from ..report import Section, Table
from .notes import Notes, Setting
from .one import MEASURES

SECONDS = {
    "tests": 75,
    "seeds": 55,
    "waits": 50,
    "rows": 100,
    "scale": 40,
    "samplers": 75,
    "training": 35,
    "compiled": 45,
}
SECONDS |= {"server": 65}
"""What each may take, 540 together, and beside it what those before it have left; three quarters over, it begins nothing more."""

LEAST_S = 10.0
"""With less nothing is begun: as much goes by before torch is there."""

NOTE = """Correct first: the tests that are marked `gpu` there, and the same seed on the CPU and there, alone and among others.
Then: textbook, ours and our forward passes alone, as in the section on samplers; rows a second through `Batch` beside the bare
forward pass, compiled for that one shape; requests at once; a training step; the server. `compile` is `--backend compile`; tf32
is float32 with tf32 products. The first run of each shape is not timed."""
TRIAL = "**A trial on the CPU at tiny sizes: it shows that everything runs, and its figures mean nothing.**"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(device="cuda")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), help="some of the measurements")
    parser.add_argument(
        "--raw", type=Path, help="a file for what was noted; beside the page if there is one, as gpu.json"
    )


def section(arguments: argparse.Namespace) -> Section:
    """All measurements that time is left for, and their tables."""
    found = Section("gpu", "On a GPU", [NOTE])
    on_gpu = arguments.device.startswith("cuda")
    if (on_gpu and not torch.cuda.is_available()) or not (on_gpu or arguments.quick):
        arguments.device = "cpu"
        found.parts = ["Not measured: no CUDA device."]
        return found
    if not on_gpu:
        found.parts.append(TRIAL)
    names, end, raw = arguments.only or list(MEASURES), time.monotonic() + sum(SECONDS.values()), {}
    for number, name in enumerate(names, start=1):
        print(f"gpu: {name} ...", file=sys.stderr, flush=True)
        later = sum(SECONDS[each] for each in names[number:])
        raw[name] = measure(name, arguments, end - time.monotonic() - later)
        add(found, raw[name]["notes"])
    path = arguments.raw or (None if arguments.output is None else arguments.output.with_name("gpu.json"))
    if path is not None:
        path.write_text(json.dumps({"device": name_of(arguments.device), "measurements": raw}, indent=1), "utf-8")
        found.parts.append(f"What each measurement noted: `{path.name}`.")
    return found


def measure(name: str, arguments: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """One of them, ended after so many seconds: its notes, how long it took, how it ended and its last words."""
    if seconds < LEAST_S:
        return {"notes": [{"say": f"No time was left for {name}."}]}
    start = time.monotonic()
    setting = Setting(arguments.device, arguments.quick, 0.75 * seconds, time.time())
    with TemporaryDirectory(prefix="token-diffusion-") as folder:
        file, log = Path(folder) / "notes.jsonl", Path(folder) / "log.txt"
        command = [sys.executable, "-m", "benchmarks.gpu.one", name, setting.text(), str(file)]
        with log.open("wb") as words:
            process = subprocess.Popen(command, cwd=ROOT, stdout=words, stderr=words, start_new_session=True)
            code = _ended(process, seconds)
        notes, said = Notes(file).read(), log.read_text("utf-8", errors="replace")
    if code != 0:
        how = f"took more than {seconds:.0f} s" if code is None else f"ended with {code}"
        last = " ".join(said.split()[-60:])
        notes.append({"failure": f"{name} {how}" + (f": … {last}" if code else "")})
    return {"notes": notes, "seconds": time.monotonic() - start, "code": code, "log": said[-20_000:]}


def _ended(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Its exit code; None if it had to be ended, and with it what it had started."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return None


def add(found: Section, notes: list[dict[str, Any]]) -> None:
    """The notes of a measurement as tables, each under its title, sentences and failures."""
    tables: dict[str, Table] = {}
    for note in notes:
        if "row" in note:
            title, row = note["table"], note["row"]
            if title not in tables:
                tables[title] = Table(list(row))
                found.parts += [f"**{title}**", tables[title]]
            tables[title].add(*row.values())
        elif "say" in note:
            found.parts.append(note["say"])
        else:
            found.failures.append(note["failure"])


def name_of(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
