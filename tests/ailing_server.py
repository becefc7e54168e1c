"""`python -m server` as a process of its own, with a network or a loading that ails. Imports are done once, for all of them."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from torch import Tensor

from server.__main__ import main
from server.work.engine import Engine
from tests.live_server import wait_until
from token_diffusion.checkpoint import Checkpoint, Unloaded

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__, "uvicorn", "server.app", "server.lifecycle"])


def _hang(*arguments: Any) -> NoReturn:
    threading.Event().wait()
    raise AssertionError("an event that nobody sets")


def _exit(*arguments: Any) -> NoReturn:
    raise SystemExit("the network has left")


def _crawl(denoiser: Any) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        time.sleep(0.02)
        return denoiser(*arguments)

    return call


NETWORKS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "hangs": lambda denoiser: _hang,
    "exits": lambda denoiser: _exit,
    "crawls": _crawl,
}
"""What becomes of each checkpoint's network."""


class _Network:
    """A denoiser around another."""

    def __init__(self, denoiser: Any, ailment: str) -> None:
        self.device, self._call = denoiser.device, NETWORKS[ailment](denoiser)

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Any:
        return self._call(tokens, t, valid, positions)


def _serve(arguments: list[str], ailment: str, log: str) -> None:
    """In the new process."""
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
    load, loading = Unloaded.load, {"never loads": _hang, "fails to load": _exit}

    def ailing(self: Unloaded, name: str | None = None) -> Checkpoint:
        checkpoint = load(self, name)
        denoiser: Any = _Network(checkpoint.denoiser, ailment)
        return replace(checkpoint, denoiser=denoiser)

    if ailment == "never closes":
        setattr(Engine, "stop", _hang)  # noqa: B010
    elif ailment:
        setattr(Unloaded, "load", loading.get(ailment, ailing))  # noqa: B010  # no type fits a process that never ends
    sys.exit(main(["--port", "0", "--num_threads", "1", *arguments]))


class AilingServer:
    """A server in a process; `log` is what it has written so far."""

    def __init__(self, process: ForkServerProcess, file: Path) -> None:
        self.process, self._file = process, file

    @property
    def log(self) -> str:
        return self._file.read_text() if self._file.exists() else ""

    def url(self, state: str = "running on") -> str:
        """Its address, once it is "running on" it, or before that once it is "listening at" it."""
        wait_until(lambda: state in self.log or not self.process.is_alive(), timeout_s=30)
        found = re.search(rf"{state} (http://[^,\s]+)", self.log)
        assert found, self.log
        return found[1]

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def exit_code(self, timeout_s: float = 10.0) -> int | None:
        """Of a process that ends by itself within that time; None if it does not."""
        self.process.join(timeout_s)
        return self.process.exitcode


@contextmanager
def ailing(folder: Path, ailment: str = "", *arguments: str) -> Iterator[AilingServer]:
    """A server of the checkpoint in `folder`, killed if a test leaves it running."""
    with TemporaryDirectory() as place:
        log = Path(place) / "log"
        process = FORKS.Process(
            target=_serve, args=(["--checkpoint_path", str(folder), *arguments], ailment, str(log))
        )
        process.start()
        try:
            yield AilingServer(process, log)
        finally:
            process.kill()
            process.join()
