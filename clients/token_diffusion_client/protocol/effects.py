"""What a conversation asks to have done. Each effect is yielded, and its result comes back from the `yield`, or its exception."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar


@dataclass(frozen=True)
class Send:
    """A request. Its result is the `httpx2.Response`, read to its end.

    timeout_s: seconds without a byte after which it is given up, in place of the client's own.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None


@dataclass(frozen=True)
class Open:
    """A request for a stream, which takes the place of the last one. Its result is the `httpx2.Response`: of a stream the
    head alone, of a refusal all."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Next:
    """The next `httpx2.ServerSentEvent` of the stream, or None at its end."""


@dataclass(frozen=True)
class Pause:
    """Nothing, for so long."""

    seconds: float


@dataclass(frozen=True)
class Emit:
    """A value for whoever called, who may leave now and not come back."""

    value: Any


@dataclass(frozen=True)
class Spawn:
    """Tell `story` beside this one. `number` is what it is called in `Finished`."""

    number: int
    story: Story[Any]


@dataclass(frozen=True)
class Finished:
    """Waits for one of the stories that were spawned. Its result is (number, last value that it emitted, exception or None)."""


Effect = Send | Open | Next | Pause | Emit | Spawn | Finished

T = TypeVar("T")

Steps = Generator[Effect, Any, T]
"""A conversation, or a part of one, that comes to a T."""


class Story(ABC, Generic[T]):
    """A conversation that emits values of type T."""

    @abstractmethod
    def events(self) -> Steps[None]:
        """All of it; asked for once."""

    def leave(self) -> Steps[None]:
        """What is left to do when nobody listens any more, at its end or before; does what it can, and says nothing."""
        yield from ()


@dataclass(frozen=True)
class Plain(Story[T]):
    """A story that can be left without a word."""

    steps: Steps[None]

    def events(self) -> Steps[None]:
        return self.steps


def told(steps: Steps[T]) -> Steps[None]:
    """What `steps` come to, emitted."""
    yield Emit((yield from steps))
