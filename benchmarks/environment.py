"""Where a figure was measured: commit, date, hardware, versions, threads, command."""

from __future__ import annotations

import math
import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from . import ROOT

PACKAGES = ("torch", "transformers", "diffusers", "fastapi", "uvicorn", "httpx2")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

LOAD_AT_START = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
"""How busy the machine was before this process did anything: figures beside a load near its cores are not to be trusted."""


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, without which a timing on CUDA means nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def resident_mb(name: str = "VmRSS") -> float:
    """MB of this process that are in memory (Linux), or with "VmHWM" that were at most."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def commit() -> str:
    """The short hash of the checkout, with "+ changes" if a tracked file differs from it; "unknown" outside git."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        return head + (" + uncommitted changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    """The CPU's own name for itself, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def hardware(device: str) -> str:
    """CPU, its cores, and the GPU where one is used."""
    found = f"{processor()}, {os.cpu_count()} cores"
    return f"{found}; {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def versions(packages: Sequence[str]) -> str:
    """Of Python and these packages."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{each} {_version(each)}" for each in packages)])


def thread_variables() -> list[str]:
    """How many threads this process and those it starts may have, as it would be typed before a command."""
    return [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]


def provenance(arguments: list[str], device: str, dtype: str, seconds: float) -> str:
    """One paragraph under a section; `arguments` are those that `python -m benchmarks` got."""
    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    return (
        f"`{' '.join([*thread_variables(), command])}`, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}, "
        f"{seconds:.0f} s. {hardware(device)}, load average {LOAD_AT_START:.1f} when it began; "
        f"{torch.get_num_threads()} threads of torch in this process; {device}, {dtype}. "
        f"{versions(PACKAGES)}."
    )
