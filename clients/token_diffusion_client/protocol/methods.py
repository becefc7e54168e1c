"""Methods that both clients have, written once: what `Client` does at once, `AsyncClient` awaits."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from .effects import Steps, Story

P = ParamSpec("P")
T = TypeVar("T")


class Blocking(ABC):
    """Whoever does what a conversation asks for, and waits for it."""

    @abstractmethod
    def _call(self, steps: Steps[T]) -> T: ...

    @abstractmethod
    def _stream(self, story: Story[Any]) -> Generator[Any]: ...


class Awaiting(ABC):
    """The same for who does other things meanwhile."""

    @abstractmethod
    def _call(self, steps: Steps[T]) -> Coroutine[Any, Any, T]: ...

    @abstractmethod
    def _stream(self, story: Story[Any]) -> AsyncGenerator[Any]: ...


if TYPE_CHECKING:

    class Call(Generic[P, T]):
        """How a `call` looks from outside."""

        @overload
        def __get__(self, client: None, kind: Any = None) -> Callable[Concatenate[Any, P], Any]: ...
        @overload
        def __get__(self, client: Blocking, kind: Any = None) -> Callable[P, T]: ...
        @overload
        def __get__(self, client: Awaiting, kind: Any = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
        def __get__(self, client: Any, kind: Any = None) -> Any: ...

    class Telling(Generic[P, T]):
        """How a `stream` looks from outside."""

        @overload
        def __get__(self, client: None, kind: Any = None) -> Callable[Concatenate[Any, P], Any]: ...
        @overload
        def __get__(self, client: Blocking, kind: Any = None) -> Callable[P, Generator[T]]: ...
        @overload
        def __get__(self, client: Awaiting, kind: Any = None) -> Callable[P, AsyncGenerator[T]]: ...
        def __get__(self, client: Any, kind: Any = None) -> Any: ...


def call(conversation: Callable[Concatenate[Any, P], Steps[T]]) -> Call[P, T]:
    """A method that returns what `conversation` comes to."""

    @functools.wraps(conversation)
    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self._call(conversation(self, *args, **kwargs))

    return method  # type: ignore[return-value]


def stream(conversation: Callable[Concatenate[Any, P], Story[T]]) -> Telling[P, T]:
    """A method that yields the values of the story that `conversation` returns. Nothing is sent before the first."""

    @functools.wraps(conversation)
    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self._stream(conversation(self, *args, **kwargs))

    return method  # type: ignore[return-value]
