"""What is outstanding, whose it is, and whether there is room for more."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import overloaded
from ..owners.owner import Owner
from ..settings import Settings
from .rate import Rate

LONGEST_RETRY_S = 120


@dataclass(frozen=True)
class Bounds:
    """How much may be outstanding before clients are told to come again.

    seconds: of work, at the rate that is measured. work: token passes instead of that, if given. tokens: positions of all rows.
    """

    seconds: float = 60.0
    work: int | None = None
    tokens: int = 2**20

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        return cls(settings.max_outstanding_s, settings.max_outstanding_work, settings.max_resident_tokens)


class Room:
    """The outstanding work and the resident positions of each client.

    A client may hold as much as it leaves free, times its weight (a dynamic threshold: Choudhury and Hahne, 1998): a single one
    gets half, and however many there are, whoever comes finds room. A client that holds nothing is measured against twice
    the bound, and for others a client counts as half the bound at most: so a request that is allowed at all, however large,
    is taken where little else is outstanding, and does not shut the door behind it. Nor do many that are large: what is no
    more than an equal part of the bound, of all clients and the newcomer, is always taken.

    Not thread-safe; `Jobs` has the lock.

    Args:
        rates: by model.
    """

    def __init__(self, bounds: Bounds, rates: Mapping[str, Rate]) -> None:
        self.bounds, self.rates = bounds, rates
        self._work: dict[str, Counter[str]] = defaultdict(Counter)  # by owner, then by model
        self._tokens: Counter[str] = Counter()  # by owner

    def add(self, owner: Owner, model: str, work: int, tokens: int) -> None:
        """So much more is outstanding, or so much less."""
        self._work[owner.id][model] += work
        self._tokens[owner.id] += tokens
        if not self._tokens[owner.id]:
            del self._tokens[owner.id], self._work[owner.id]

    def check(self, owner: Owner, work: Mapping[str, int], tokens: int) -> None:
        """Raises APIError, 429, if there is no room for so much more, work by model."""
        amounts = {id: self._amount(held) for id, held in self._work.items()}
        limit = self.bounds.seconds if self.bounds.work is None else float(self.bounds.work)
        if not (
            _fits(amounts, owner, self._amount(work), limit)
            and _fits(self._tokens, owner, tokens, float(self.bounds.tokens))
        ):
            raise overloaded(self.retry_after_s())

    @property
    def work(self) -> int:
        """Outstanding token passes."""
        return sum(held.total() for held in self._work.values())

    def seconds(self, held: Iterable[Mapping[str, int]]) -> float:
        """What the engine needs for so much work."""
        return sum(work / self.rates[model].per_s for each in held for model, work in each.items())

    def retry_after_s(self) -> int:
        """Seconds that the outstanding work takes, and up to half as many, lest all who are told come at one moment."""
        seconds = self.seconds(self._work.values()) * random.uniform(1.0, 1.5)
        return max(1, min(LONGEST_RETRY_S, math.floor(seconds + random.random())))  # rounded up as often as is due

    def _amount(self, held: Mapping[str, int]) -> float:
        return self.seconds([held]) if self.bounds.work is None else float(sum(held.values()))


def _fits(held: Mapping[str, float], owner: Owner, more: float, limit: float) -> bool:
    """The rule of `Room` for one resource, of which each client holds so much."""
    mine = held.get(owner.id, 0)
    others = sum(min(amount, limit / 2) for id, amount in held.items() if id != owner.id)
    if not mine:
        counted = min(more, limit / 2)
        return more * (len(held) + 1) <= limit or counted <= 2 * limit - others - counted
    return mine + more <= owner.weight * (limit - others - mine - more)
