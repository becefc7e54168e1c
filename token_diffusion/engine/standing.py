"""Where everybody stands: clients, their requests, and the lines in which these wait for forward passes."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable
from dataclasses import dataclass, field

from .cost import Cost
from .order import Order


@dataclass(eq=False)
class Line:
    """Where the requests stand whose rows share forward passes.

    cost: of a pass. max_tokens: most tokens of one, padding included; one row goes through whatever its length.
    """

    cost: Cost
    max_tokens: int = sys.maxsize
    queues: Order[Queue] = field(default_factory=lambda: Order[Queue]())

    def takes(self, length: int) -> int:
        """Rows of this length in one pass."""
        return max(1, self.max_tokens // length)


@dataclass(eq=False)
class Client:
    """One client that has rows. queues: by line. new: its requests that were never stepped, in order of arrival."""

    key: Hashable
    weight: float
    v: float
    rows: int = 0
    is_new: bool = True
    queues: dict[Line, Queue] = field(default_factory=dict)
    new: dict[Share, None] = field(default_factory=dict)
    left = 0.0

    def first(self) -> Share:
        """Its request that has had least."""
        shares = (share for queue in self.queues.values() if (share := queue.shares.first()) is not None)
        return min(shares, key=lambda share: (share.v, share.is_new, share.left))

    def least(self, but: Queue | None = None) -> float:
        """Virtual time of its request that has had least, those in the line of `but` aside."""
        return min((queue.shares.least() for queue in self.queues.values() if queue is not but), default=math.inf)


@dataclass(eq=False)
class Queue:
    """A client's requests in one line."""

    client: Client
    rows: int = 0
    shares: Order[Share] = field(default_factory=lambda: Order[Share]())
    left = 0.0

    @property
    def v(self) -> float:
        return self.client.v

    @property
    def is_new(self) -> bool:
        return self.client.is_new


@dataclass(eq=False)
class Share:
    """A request's: `rows` of `length` tokens that are not finished, `left` token passes that they may still need.

    taken: its rows in the pass that is being put together.
    """

    client: Client
    line: Line
    length: int
    rows: int
    left: float
    v: float
    is_new: bool = True
    taken: int = 0
