"""Members by their virtual time, as it grows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Generic, Protocol, TypeVar


class Served(Protocol):
    """v: virtual time, which only grows. is_new, left: decide among equals. rows: those it has; without any it is gone."""

    @property
    def v(self) -> float: ...
    @property
    def is_new(self) -> bool: ...
    @property
    def left(self) -> float: ...
    @property
    def rows(self) -> int: ...


T = TypeVar("T", bound=Served)
_numbers = count()


class Order(Generic[T]):
    """Who has had least. A heap of keys that may be out of date, as they only grow; mended where it matters, at the top."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[float, bool, float, int, T]] = []

    def push(self, member: T) -> None:
        """Behind its equals."""
        heappush(self._heap, (member.v, member.is_new, member.left, next(_numbers), member))

    def push_all(self, members: Iterable[T]) -> None:
        for member in members:
            self.push(member)

    def first(self) -> T | None:
        """The one that has had least."""
        heap = self._heap
        while heap:
            top = heap[0]
            member = top[4]
            if not member.rows:
                heappop(heap)
            elif member.v > top[0]:
                heapreplace(heap, (member.v, member.is_new, member.left, next(_numbers), member))
            else:
                return member
        return None

    def pop(self) -> T | None:
        """The same, taken out."""
        member = self.first()
        if member is not None:
            heappop(self._heap)
        return member

    def least(self, but: T | None = None) -> float:
        """Virtual time of the one that has had least, `but` aside; inf if there is nobody else."""
        member = self.first()
        if member is None:
            return math.inf
        if member is not but:
            return member.v
        entry = heappop(self._heap)
        least = self.least()
        heappush(self._heap, entry)
        return least
