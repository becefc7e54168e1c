"""Servers as a user starts them: a process, its address, its memory, its end."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from .. import ROOT

RUNNING = re.compile(rb"running on (http://\S+)")
START_S, STOP_S = 120.0, 60.0


class ServerProcess:
    """A running `python -m MODULE`, which says "running on URL" in its log once it is."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: int) -> None:
        self.process, self.url = process, url
        self.exit_code: int | None = None
        self._log = log

    def log_bytes(self) -> int:
        """What it has logged so far."""
        return os.fstat(self._log).st_size

    def rss_mb(self) -> float:
        """Resident memory in MB (2^20 bytes), from /proc."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> int:
        """SIGTERM, and the exit code; negative if it had to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.exit_code = self.process.wait()
        return self.exit_code


def checkpoint_flags(paths: Mapping[str, Path]) -> list[str]:
    """Flags of a server for checkpoints, name -> folder."""
    return [flag for name, path in paths.items() for flag in ("--checkpoint", f"{name}={path}")]


@contextmanager
def serving(
    module: str,
    flags: Sequence[str],
    *,
    root: Path = ROOT,
    descriptors: int | None = None,
    variables: Mapping[str, str] | None = None,
    start_s: float = START_S,
) -> Iterator[ServerProcess]:
    """The server on a free port of 127.0.0.1, stopped afterwards. Raises RuntimeError with its log if it does not start.

    Args:
        root: the checkout it is started from. descriptors: most that it may have open, if not as many as this process.
        variables: of its environment, beside this process's. start_s: it may take so long to start.
    """
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", "0", *flags]

    environment = {**os.environ, **(variables or {})}

    def limit() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    with TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, preexec_fn=limit)
        server = None
        try:
            server = ServerProcess(process, _address(module, process, log.fileno(), start_s), log.fileno())
            yield server
        finally:
            (server or ServerProcess(process, "", log.fileno())).stop()


def _address(module: str, process: subprocess.Popen[bytes], log: int, start_s: float) -> str:
    deadline = time.monotonic() + start_s
    while time.monotonic() < deadline and process.poll() is None:
        if found := RUNNING.search(os.pread(log, 2**20, 0)):
            return found[1].decode()
        time.sleep(0.05)
    raise RuntimeError(f"python -m {module} did not start:\n{os.pread(log, 4000, 0).decode()}")
