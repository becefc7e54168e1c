"""Many requests at once, never more than so many: one that fails is told with its number, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .asking import Patience
from .effects import Finished, Spawn, Steps
from .events import DoneEvent
from .requests import SampleRequest
from .stream import Stream

WHOLE = 2**31 - 1
"""Updates merged into one state: nobody looks at them."""


@dataclass(frozen=True)
class Result:
    """What came of one of many requests: `done`, or else `error`. `index` is its place among them."""

    index: int
    done: DoneEvent | None = None
    error: Exception | None = None

    def get(self) -> DoneEvent:
        """The answer; raises the error if there is none."""
        if self.done is None:
            assert self.error is not None
            raise self.error
        return self.done


def results(
    requests: Iterable[SampleRequest | str],
    max_concurrency: int,
    patience: Patience,
    tell: Callable[[Result], Steps[None]],
) -> Steps[None]:
    """Tells a result for each request, as they end. A request is taken from `requests` when it is about to be sent."""
    waiting = enumerate(requests)
    running = 0
    while True:
        while running < max_concurrency and (waits := next(waiting, None)) is not None:
            number, request = waits
            try:
                story = _story(request, patience)
            except (TypeError, ValueError) as wrong:
                yield from tell(Result(number, error=wrong))
            else:
                running += 1
                yield Spawn(number, story)
        if not running:
            return
        number, done, error = yield Finished()
        running -= 1
        yield from tell(Result(number, done) if error is None else Result(number, error=error))


def _story(request: SampleRequest | str, patience: Patience) -> Stream:
    """A request as a stream, which can be come back to, and ended. Raises ValueError or TypeError for what is none."""
    if not isinstance(request, str | Mapping):
        raise TypeError(f"a request must be a prompt or a mapping of its fields, got {request!r}")
    asked: dict[str, Any] = {"prompt": request} if isinstance(request, str) else dict(request)
    path, prompt = str(asked.pop("endpoint", "sample")), asked.pop("prompt", None)
    return Stream.of(prompt, path, {"stream_every": WHOLE, **asked}, patience)
