"""How much memory a large network takes, loaded and asked, by the shell and by the server, each in a process of its own.

    python -m benchmarks memory [--shape llada-8b]
    python -m benchmarks memory --checkpoint_path DIR

A folder of random weights is written (16 GB for the 8B shape), read, and deleted. One sample of 64 tokens is drawn in one step,
so that the head runs at all of them. Memory is looked at fifty times a second (Linux): anonymous pages, which must stay, and
those that mirror files, which the system may drop and read again; mapped weights are of the second kind. "Both" is the most of
their sum at any one time; for the server the kernel's own mark since its start.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from .. import ROOT
from ..report import Section, Table
from ..serving.process import serving
from .large import SHAPES, save_large

EVERY_S = 0.02
TIMEOUT_S = 1800.0
REQUEST = {"seq_len": 64, "num_inference_steps": 1, "seed": 0, "stream": False, "timeout_s": 600}

NOTE = """One sample of 64 tokens in one step, the weights in the type that they were published in, all else as it is without a
flag. GiB; what is measured how: `benchmarks/network/memory.py`."""
COLUMNS = ["process", "anonymous", "of files", "both", "seconds until it was ready", "seconds of the sample"]


@dataclass
class Peak:
    """What was resident of a process at most, in GiB."""

    anonymous: float = 0.0
    files: float = 0.0
    both: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self, pid: int) -> None:
        """Looks until it is over, or the process is."""
        while not self.over.wait(EVERY_S):
            try:
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            except OSError:
                return
            anonymous, files, shared = (_gib(status, name) for name in ("RssAnon", "RssFile", "RssShmem"))
            self.anonymous, self.files = max(self.anonymous, anonymous), max(self.files, files)
            self.both = max(self.both, anonymous + files + shared)


def _gib(status: str, name: str) -> float:
    found = re.search(rf"^{name}:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 2**20 if found else 0.0


@contextmanager
def watched(pid: int) -> Iterator[Peak]:
    """The peak of a process while it is in here."""
    peak = Peak()
    thread = threading.Thread(target=peak.watch, args=[pid])
    thread.start()
    try:
        yield peak
    finally:
        peak.over.set()
        thread.join()


def shell(folder: Path) -> tuple[Peak, float]:
    """Of `python -m token_diffusion sample`, and its seconds from start to end."""
    flags = ["--checkpoint_path", str(folder), "--num_samples", "1", "--seq_len", "64", "--num_inference_steps", "1"]
    command = [sys.executable, "-m", "token_diffusion", "sample", *flags]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with process, watched(process.pid) as peak:
        _, said = process.communicate(timeout=TIMEOUT_S)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said[-2000:]}")
    return peak, time.perf_counter() - start


def server(folder: Path) -> tuple[Peak, float, float]:
    """Of `python -m server`, seconds until it took requests, and those of one."""
    start = time.perf_counter()
    with serving("server", ["--checkpoint_path", str(folder)], start_s=TIMEOUT_S) as process:
        ready = time.perf_counter()
        # What it took to load is in the kernel's own high-water mark; what a request takes is looked at.
        with watched(process.process.pid) as peak:
            answer = httpx2.post(f"{process.url}/sample", json=REQUEST, timeout=TIMEOUT_S)
        seconds = time.perf_counter() - ready
        answer.raise_for_status()
        status = Path(f"/proc/{process.process.pid}/status").read_text(encoding="ascii")
        peak.both = max(peak.both, _gib(status, "VmHWM"))
    return peak, ready - start, seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape", choices=sorted(SHAPES), help="of the random weights; without it two layers of the 8B one"
    )
    parser.add_argument("--checkpoint_path", type=Path, help="a folder that is there, instead of random weights")
    parser.add_argument("--limit_gib", type=float, default=24.0, help="more at once counts as a failure")


def section(arguments: argparse.Namespace) -> Section:
    """A row a process."""
    shape = arguments.shape or ("tiny" if arguments.quick else "llada-8b-2-layers")
    found = Section("memory", "Memory of a large network", [NOTE])
    with TemporaryDirectory(prefix="token-diffusion-") as root:
        folder = arguments.checkpoint_path
        title = f"**{folder}**"
        if folder is None:
            folder = Path(root) / shape
            count = save_large(folder, SHAPES[shape])
            title = f"**{shape}**: {count / 1e9:.2f} billion parameters in bfloat16, {2 * count / 2**30:.1f} GiB."
        table = Table(COLUMNS)
        of_shell, seconds = shell(folder)
        table.add("shell", of_shell.anonymous, of_shell.files, of_shell.both, "-", seconds)
        of_server, ready, seconds = server(folder)
        table.add("server", of_server.anonymous, of_server.files, of_server.both, ready, seconds)
    found.parts += [title, table]
    for name, peak in (("shell", of_shell), ("server", of_server)):
        if peak.both > arguments.limit_gib:
            found.failures.append(f"the {name} took {peak.both:.1f} GiB at once, more than {arguments.limit_gib:g}")
    return found
