"""How the server begins, at a port that is its own before anything is loaded, and how it ends, whatever its engine does."""

from __future__ import annotations

import asyncio.trsock
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from types import FrameType

import uvicorn

from token_diffusion.errors import ParameterError, in_short

from .errors import shutdown
from .work.engine import Engine

log = logging.getLogger(__name__)

STALLED, DIED = 70, 71
"""Exit codes: a step did not end; the engine's thread did."""

TELL_S = 1.0
"""Seconds in which /health still says why the server is about to end."""

CLOSE_S, LATE_CLOSE_S = 5, 2
"""Seconds that connections may take to close once every request has ended, and once there is no time left for that."""

LATE_S = 2.7
"""Seconds after the end of the grace, or after giving up on the engine, by which the process is gone."""


@contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets at all addresses of `host`: the port is ours, but nobody can connect before `listen`; 0 takes a free one.

    Raises:
        ParameterError: there is no such address here, or its port is not free.
    """
    with ExitStack() as kept:
        yield [kept.enter_context(each) for each in _bind(host, port)]


def _bind(host: str, port: int) -> Iterator[socket.socket]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ParameterError("host", f"be an address, or a name that has one ({in_short(error)})", host) from error
    here, reason = False, OSError()
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        with _in_words(host, port):
            try:
                each = _socket(family, (address[0], port, *address[2:]))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # as ::1 is where there is no IPv6
                    raise
                reason = error
            else:
                here, port = True, each.getsockname()[1]
                yield each
    if not here:
        raise ParameterError("host", f"be an address of this machine ({reason.strerror})", host)


def listen(sockets: Sequence[socket.socket], config: uvicorn.Config) -> None:
    """From here on clients may connect. Raises `ParameterError` if somebody else was quicker."""
    for each in sockets:
        with _in_words(config.host, each.getsockname()[1]):
            each.listen(config.backlog)
    log.info("listening at %s, loading", ", ".join(map(url, sockets)))


def url(listening: socket.socket | asyncio.trsock.TransportSocket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _in_words(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ParameterError("port", f"be free at {host} ({error.strerror})", port) from error


def _socket(family: int, address: tuple[object, ...]) -> socket.socket:
    # Named, as asyncio sets TCP_NODELAY for no other: without it an answer on a connection that stays waits 40 ms for the
    # client's acknowledgement between head and body, and each event for that of the one before.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


class DrainingServer(uvicorn.Server):
    """A first SIGTERM or SIGINT drains, a second one ends the process at once, and so does the first while it loads.

    While draining, /ready and new work are answered 503, and what runs goes on for `grace_s` seconds; what is left
    then ends with an error of type shutdown. `exit_code` is 0 then. Without any signal the server ends when its engine has
    died or does not come back from a step (`DIED`, `STALLED`), and when loading it has failed.

    In the main thread the server owns the process, which is gone `LATE_S` after the grace or such an end, come what may.

    Args:
        engine: the one of the app, or the promise of one.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine | Future[Engine], grace_s: float) -> None:
        super().__init__(config)
        self._promise: Future[Engine] = engine if isinstance(engine, Future) else Future()
        self._engine = None if isinstance(engine, Future) else engine
        self._grace_s = grace_s
        self._deadline: float | None = None
        self._over: float | None = None
        self._last_resort: threading.Timer | None = None
        self.exit_code = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A signal interrupts the event loop anywhere, so that it must not take a lock: on_tick does the work.
        # (A future's lock can be taken twice by one thread, and others hold it for no longer than it takes to look.)
        if self._deadline is not None or (self._engine is None and not self._promise.done()):
            os._exit(128 + sig)
        self._deadline = time.monotonic() + self._grace_s

    async def on_tick(self, counter: int) -> bool:
        if self._engine is None and self._promise.done():
            self._begin()
        if self._engine is not None:
            self._look_after(self._engine)
        return await super().on_tick(counter)

    def _begin(self) -> None:
        if self._promise.exception() is not None:
            self.should_exit = True
        elif self._promise.result().started:
            self._engine = self._promise.result()
            for checkpoint in self._engine.checkpoints.values():
                log.info("loaded %s: %s, from %s", checkpoint.name, checkpoint.process, checkpoint.path)
            log.info("running on %s", url(self.servers[0].sockets[0]))

    def _look_after(self, engine: Engine) -> None:
        if not engine.alive:
            self._give_up(DIED, "the engine has died: the server ends")
        elif engine.stalled_s is not None:
            self._give_up(STALLED, "the engine hangs: the server ends")
        if self._deadline is not None:
            self._drain(engine, self._deadline)

    def _give_up(self, code: int, message: str) -> None:
        if self._over is None:
            log.critical("%s with exit code %d", message, code)
            self.exit_code = code
            self._over = time.monotonic() + TELL_S
        if time.monotonic() >= self._over:
            self._close(0.0)

    def _drain(self, engine: Engine, deadline: float) -> None:
        engine.drain()
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            engine.abort(shutdown)
            self._close(0.0)
        elif engine.idle:
            self._close(left_s)

    def _close(self, left_s: float) -> None:
        """uvicorn's own end; where it, the application or the interpreter hangs, the process ends without them."""
        self.should_exit = True
        if self._last_resort is None and threading.current_thread() is threading.main_thread():
            self.config.timeout_graceful_shutdown = min(CLOSE_S, LATE_CLOSE_S + int(left_s))
            self._last_resort = threading.Timer(left_s + LATE_S, os._exit, [self.exit_code])
            self._last_resort.daemon = True
            self._last_resort.start()
