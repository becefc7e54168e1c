"""Behind a proxy: whom the request came from, and under which prefix."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


class ForwardedMiddleware:
    """Client and scheme as trusted proxies tell them (X-Forwarded-For, X-Forwarded-Proto); nobody else is believed.

    uvicorn's, but that only an address is taken for one: what a proxy passes on unread cannot reach the log.

    Args:
        trusted: addresses and networks of the proxies.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self.app = app
        checked: Any = self._checked
        self._forwarded: Any = ProxyHeadersMiddleware(checked, list(trusted))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {})["peer"] = scope.get("client")
        await self._forwarded(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client") is not None:
            host, port = scope["client"]
            address = _address(host)
            scope["client"] = scope["state"]["peer"] if address is None else (address, port)
        await self.app(scope, receive, send)


class RootPathMiddleware:
    """The server under a path prefix, whether the proxy takes it away before it passes a request on, or not.

    Whoever asks for the prefix without a slash is sent to the page there, whose links would lead beside it otherwise.

    Args:
        root_path: the prefix, from its first slash and without a last one.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == self.root_path and scope["method"] in ("GET", "HEAD"):
                return await RedirectResponse(f"{self.root_path.rpartition('/')[2]}/")(scope, receive, send)
            # ASGI's `path` is with the prefix.
            if not f"{scope['path']}/".startswith(f"{self.root_path}/"):
                scope["path"] = self.root_path + scope["path"]
                scope["raw_path"] = quote(self.root_path).encode() + scope.get("raw_path", b"")
            scope["root_path"] = self.root_path
        await self.app(scope, receive, send)


def route_path(scope: Scope) -> str:
    """The path without the prefix that the server is under."""
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root_path) if path.startswith(f"{root_path}/") else path


def _address(text: str) -> str | None:
    """`text` if it is an address, without the zone of IPv6, which may be any characters."""
    try:
        return str(ip_address(text.partition("%")[0]))
    except ValueError:
        return None
