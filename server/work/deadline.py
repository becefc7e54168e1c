"""When a request is given up, whoever it is that keeps it waiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..errors import APIError, timeout


@dataclass(frozen=True)
class Deadline:
    """`due`, by the event loop's clock, `seconds` after the request was read."""

    seconds: float
    due: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(seconds, asyncio.get_running_loop().time() + seconds)

    def bound(self) -> asyncio.Timeout:
        """A context that ends with TimeoutError once it is over."""
        return asyncio.timeout_at(self.due)

    def error(self) -> APIError:
        return timeout(self.seconds)
