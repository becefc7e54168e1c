"""When a request is given up, whoever it is that keeps it waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

    @asynccontextmanager
    async def bound(self) -> AsyncIterator[None]:
        """A context that ends with APIError, 504, once it is over."""
        try:
            async with asyncio.timeout_at(self.due):
                yield
        except TimeoutError:
            raise self.error() from None

    def error(self) -> APIError:
        return timeout(self.seconds)
