"""The thread in which text becomes tokens and tokens become text."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..metrics import Metrics


class TextThread(ThreadPoolExecutor):
    """A pool of one, as tokenizers are not made for several threads at a time. What it does is timed."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(1, "text")
        self._metrics = metrics

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(self._timed, fn, *args, **kwargs)

    def _timed(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            self._metrics.text(time.perf_counter() - began)
