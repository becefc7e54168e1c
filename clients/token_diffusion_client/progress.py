"""A bar on stderr for many requests, drawn by rich."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Self


class Bar:
    """How many of `total` results are there (None: nobody knows), and how many of them are errors."""

    def __init__(self, total: int | None) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        except ImportError:
            install = "pip install 'token-diffusion-client[terminal]'"
            raise ImportError(f"a progress bar needs rich: {install}, or ask for progress=False") from None
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=total)
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, error: Exception | None) -> None:
        """One more has ended, well or with `error`."""
        if error is not None:
            self._counts[type(error).__name__] += 1
        failed = ", ".join(f"{number} {name}" for name, number in self._counts.items())
        self._progress.update(self._task, advance=1, description=failed)
