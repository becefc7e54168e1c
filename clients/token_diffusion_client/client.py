"""The two clients: the same methods, of `endpoints.py`, for code that waits and for code that awaits."""

from __future__ import annotations

import functools
import ssl
from typing import Any, Self

import httpx2

from .drivers import AsyncDriver, Driver
from .endpoints import Endpoints
from .protocol.asking import Patience
from .version import __version__

DEFAULT_URL = "http://127.0.0.1:8000"


@functools.cache
def _trust() -> ssl.SSLContext:
    """Whom an https:// server has to be certified by; read once, as it takes longer than all else in making a client."""
    return httpx2.create_ssl_context()


class _Settings(Endpoints):
    """What a client is told when it is made.

    Args:
        url: where the server is, a path before its endpoints included.
        api_key: sent as `Authorization: Bearer KEY`.
        timeout: seconds without a byte from the server before `httpx2.ReadTimeout` is raised, None for no limit. The
            server's heartbeat keeps a stream alive; an answer that is not streamed needs more than its timeout_s.
        max_retries: how often a request is sent again that a busy server (429, 503) has not begun with, each time after
            the seconds of its `Retry-After`; 0 for never.
        max_wait_s: seconds that a request waits for such tries in all.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float | None = 90.0,
        max_retries: int = 8,
        max_wait_s: float = 60.0,
    ) -> None:
        self._patience = Patience(max_retries, max_wait_s)
        headers = {"User-Agent": f"token-diffusion-client/{__version__}"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        options: dict[str, Any] = {
            "base_url": url,
            "headers": headers,
            "timeout": httpx2.Timeout(timeout, connect=5.0, pool=None),
            # How many run at a time is said where they are sent, and the server has bounds of its own.
            "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=20),
            "verify": _trust(),
        }
        super().__init__(**options)


class Client(_Settings, Driver):
    """A connection to one server, to be closed or used in a `with`; threads may share it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every connection; streams that still run are given up, and the server frees their rows."""
        self._close()


class AsyncClient(_Settings, AsyncDriver):
    """The same for asyncio: `async with`, `await` each call, `async for` over each stream."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every connection; streams that still run are given up, and the server frees their rows."""
        await self._close()
