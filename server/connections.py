"""Connections: how long each may take over its request and its answer, and how many there may be at a time.

uvicorn's protocol for httptools, with the limits that it lacks. (Its other one, for h11, takes 20 times as long over a body that
comes in chunks of a byte, enough to stall the event loop.)
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import logging
import math
import resource
import socket
import struct
import termios
import time
from enum import Enum
from ipaddress import ip_address, ip_network
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from .api.middleware.owners import address_of
from .errors import APIError
from .settings import Settings
from .sockets.descriptors import Seldom, accepted
from .sockets.reading import ReadingProtocol

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 32 * 1024
"""Of a request's line and headers."""

FRAMING = 8
"""Bytes on the wire for a byte of a body, at most: a chunk of one byte takes six."""

KERNEL_BYTES = 128 * 1024
"""Of an answer that wait in the kernel for a slow reader; else it is megabytes for each."""

LEAST_SHARE = 8
"""Connections that a client may have however many others there are."""

WARN_S = 60.0


class Phase(Enum):
    """What a connection is about."""

    IDLE = "idle"
    HEADER = "header"
    BODY = "body"
    ANSWER = "answer"


WAITING = (Phase.IDLE, Phase.HEADER, Phase.BODY)
"""In these a connection waits for its client, and may be closed: the sooner the earlier in the list."""


class Connections:
    """All connections of a server, by phase, those that entered it first in front.

    A client, by its address, may have as many as it leaves free: one alone half of them, and whoever comes finds room. A trusted
    proxy, which speaks for many, may have all.
    """

    def __init__(self, settings: Settings, max_connections: int) -> None:
        self.max_connections = max_connections
        self.max_message_bytes = MAX_HEADER_BYTES + FRAMING * settings.body_bytes
        self._allowed_s = {
            Phase.IDLE: settings.keep_alive_s,
            Phase.HEADER: settings.header_timeout_s,
            Phase.BODY: settings.body_timeout_s,
        }
        self._send_timeout_s = settings.send_timeout_s
        self._every_s = min(1.0, *(seconds / 4 for seconds in (*self._allowed_s.values(), self._send_timeout_s)))
        self._since: dict[Phase, dict[Connection, float]] = {phase: {} for phase in Phase}
        self._of: dict[str, dict[Phase, dict[Connection, None]]] = {}
        self._proxies = [ip_network(network) for network in settings.trusted_proxies]
        self._unsent: dict[Connection, tuple[int, float]] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._warned = -math.inf

    def __len__(self) -> int:
        return sum(map(len, self._since.values()))

    @property
    def crowded(self) -> bool:
        return len(self) > self.max_connections

    def crowded_by(self, connection: Connection) -> bool:
        """Whether its client has more than its share."""
        mine = sum(map(len, self._of.get(connection.owner, {}).values()))
        return mine > max(LEAST_SHARE, self.max_connections - len(self)) and not connection.trusted

    def enter(self, connection: Connection, phase: Phase) -> None:
        self._leave_phase(connection)
        connection.phase = phase
        self._since[phase][connection] = time.monotonic()
        self._of.setdefault(connection.owner, {}).setdefault(phase, {})[connection] = None
        if self._sweep_timer is None:
            self._sweep_timer = connection.loop.call_later(self._every_s, self._sweep, connection.loop)

    def leave(self, connection: Connection) -> None:
        self._leave_phase(connection)
        self._unsent.pop(connection, None)

    def _leave_phase(self, connection: Connection) -> None:
        self._since[connection.phase].pop(connection, None)
        mine = self._of.get(connection.owner, {})
        mine.get(connection.phase, {}).pop(connection, None)
        if not any(mine.values()):
            self._of.pop(connection.owner, None)

    def make_room(self, newcomer: Connection) -> None:
        """Close those that have waited for their client the longest until there are not too many, if that many wait: first
        those of the newcomer's own client, if that has more than its share.
        """
        for phase in WAITING:
            mine = self._of[newcomer.owner].get(phase, {})
            while self.crowded_by(newcomer) and (oldest := next(iter(mine), newcomer)) is not newcomer:
                self._abort(oldest)
            while self.crowded and (oldest := next(iter(self._since[phase]), newcomer)) is not newcomer:
                self._warn()
                self._abort(oldest)
        newcomer.unwelcome = self.crowded_by(newcomer)

    def trusts(self, client: tuple[str, int] | None) -> bool:
        """Whether it is a trusted proxy."""
        try:
            address = ip_address(client[0] if client is not None else "")
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._proxies)

    def watch(self, connection: Connection) -> None:
        """Its reader has not taken all that it was sent: see that it goes on taking."""
        self._unsent[connection] = (connection.unsent(), time.monotonic())

    def unwatch(self, connection: Connection) -> None:
        self._unsent.pop(connection, None)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for phase in WAITING:
            overdue = now - self._allowed_s[phase]
            for connection, since in list(self._since[phase].items()):
                if since > overdue:
                    break  # those behind it came later
                # An application that still answers, though the body is not whole, has that in hand.
                if phase is not Phase.BODY or connection.answered:
                    connection.transport.close()  # once what is on its way to the client has arrived
        for connection, (unsent, since) in list(self._unsent.items()):
            left = connection.unsent()
            if left < unsent:
                self._unsent[connection] = (left, now)
            elif now - since > self._send_timeout_s:
                log.info("a connection of %s is ended: its reader takes nothing", connection.client)
                self._abort(connection)
        self._sweep_timer = loop.call_later(self._every_s, self._sweep, loop) if len(self) or self._unsent else None

    def _abort(self, connection: Connection) -> None:
        self.leave(connection)
        connection.transport.abort()

    def _warn(self) -> None:
        now = time.monotonic()
        if now - self._warned > WARN_S:
            self._warned = now
            log.warning(
                "there are more than %d connections: those that wait for their client are closed", self.max_connections
            )


class Connection(ReadingProtocol):
    """One connection, in one of the phases."""

    def __init__(self, connections: Connections, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self.all = connections
        self.phase, self.owner = Phase.HEADER, ""
        self.trusted = self.unwelcome = False
        self._in_header = self._in_message = False
        self._message_bytes = 0

    @property
    def answered(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def unsent(self) -> int:
        """Bytes that the client has not taken yet: ours, and the kernel's."""
        try:
            raw = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return self.transport.get_write_buffer_size()
        return self.transport.get_write_buffer_size() + int(struct.unpack("i", raw)[0])

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BYTES)
        self.owner, self.trusted = address_of({"client": self.client}).name, self.all.trusts(self.client)
        self.all.enter(self, Phase.HEADER)
        self.all.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.leave(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.all.watch(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.all.unwatch(self)

    def taken(self, num_bytes: int) -> None:
        self._message_bytes += num_bytes
        if self._in_header and self._message_bytes > MAX_HEADER_BYTES:
            self.refuse(431, f"line and headers of a request must be at most {MAX_HEADER_BYTES} bytes")
        elif self._in_message and self._message_bytes > self.all.max_message_bytes:
            self.transport.abort()  # the application has refused it, or it is chunks and trailers without a body

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_header = self._in_message = True
        self._message_bytes = 0
        if self.answered:
            self.all.enter(self, Phase.HEADER)

    def on_request(self) -> None:
        self._in_header = False
        crowded = self.all.crowded or (self.unwelcome and self.all.crowded_by(self))
        if crowded:
            self.scope["state"]["crowded"] = True
        super().on_request()
        if crowded:
            self.cycle.keep_alive = False
        # One that came before the answer to the last is not read on until then.
        self.all.enter(self, Phase.ANSWER if self.pipeline else Phase.BODY)

    def on_request_end(self) -> None:
        super().on_request_end()
        self._in_message = False
        self.all.enter(self, Phase.IDLE if self.answered else Phase.ANSWER)

    def on_response_complete(self) -> None:
        if self.phase is Phase.ANSWER and not self.pipeline:
            self.all.enter(self, Phase.IDLE)
        if self.transport.get_write_buffer_size():
            self.all.watch(self)
        super().on_response_complete()

    def refuse(self, status: int, message: str) -> None:
        """An answer to what is no request; the connection ends with it, or without it in the middle of another answer."""
        log.info("a connection of %s is ended: %s", self.client, message)
        if not self.answered:
            return self.transport.close()
        body = APIError(status, "invalid_request", message).event.model_dump_json().encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


def serving_config(app: ASGIApp, settings: Settings, **options: Any) -> uvicorn.Config:
    """How uvicorn serves `app`; `options` are uvicorn's own."""
    at_once, most = accepted(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    connections = Connections(settings, settings.max_connections or most)
    logging.getLogger("asyncio").addFilter(Seldom(WARN_S))
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=cast(Any, functools.partial(Connection, connections)),
        ws="none",
        loop="asyncio",
        backlog=at_once,
        timeout_keep_alive=math.ceil(settings.keep_alive_s),
        log_config=None,
        access_log=False,  # AccessMiddleware writes it
        server_header=False,
        proxy_headers=False,
        **options,
    )
