"""Whose a request is, and who is let in."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ...errors import unauthorized
from ...owners.keys import Keys
from ...owners.owner import Owner
from ..docs.page import PAGE_PATHS
from .proxies import route_path

OPEN_PATHS = {"/health", "/ready", *PAGE_PATHS}
"""They tell nothing but whether the server is well, or what everybody can read in its source."""


class OwnerMiddleware:
    """Puts the `Owner` into `scope["state"]["owner"]`: the holder of the request's key, or else its address.

    With `keys`, 401 without `Authorization: Bearer KEY`; `OPEN_PATHS`, the paths of a page, and CORS preflights pass.
    """

    def __init__(
        self, app: ASGIApp, keys: Keys | None = None, is_page: Callable[[str], bool] = lambda path: False
    ) -> None:
        self.app = app
        self.keys = keys
        self.is_page = is_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        owner = self._holder(scope)
        if owner is None and self._is_guarded(scope):
            return await unauthorized().response()(scope, receive, send)
        scope.setdefault("state", {})["owner"] = owner or address_of(scope)
        await self.app(scope, receive, send)

    def _holder(self, scope: Scope) -> Owner | None:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        return self.keys.owner(given.strip()) if self.keys is not None and scheme.lower() == "bearer" else None

    def _is_guarded(self, scope: Scope) -> bool:
        if self.keys is None or scope["method"] == "OPTIONS":
            return False
        path = route_path(scope)
        return path not in OPEN_PATHS and not self.is_page(path)


def owner_of(request: Request) -> Owner:
    """Whose `request` is, as `OwnerMiddleware` found; where it was refused before, its address."""
    owner: Owner | None = request.scope.get("state", {}).get("owner")
    return owner or address_of(request.scope)


def address_of(scope: Scope) -> Owner:
    """The address that a request came from; one for all of an IPv6 network of 64 bits, which is what one host is given."""
    name = _client(scope["client"][0] if scope.get("client") else "local")
    return Owner(f"address:{name}", name)


@lru_cache(maxsize=4096)
def _client(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:  # an ASGI host that listens on no network
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if isinstance(address, IPv6Address) and not address.is_loopback:
        return str(IPv6Network((int(address), 64), strict=False))
    return host
