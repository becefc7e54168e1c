"""How a connection is read: no faster than it is answered, and as HTTP/1.1 whatever else it offers to speak."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PIECE_BYTES = 1024
"""Taken by the parser at a time: it cannot be stopped, and what is too much is found out after each piece."""


class Gate(FlowControl):
    """uvicorn's, which is also closed while the connection has read more than it can use yet."""

    _closed = False

    def close(self) -> None:
        self._closed = True
        self.pause_reading()

    def open(self) -> None:
        if self._closed:
            self._closed = False
            self.resume_reading()

    def resume_reading(self) -> None:
        if not self._closed:
            super().resume_reading()


class ReadingProtocol(HttpToolsProtocol):
    """uvicorn's protocol for httptools, with what it lacks.

    Of requests that are sent ahead (pipelined), hardly more than the next one is parsed before its turn has come: a request is
    shorter than what becomes of it, and who sends thousands at once would stall the loop and fill the memory. An offer to
    speak another protocol (`Upgrade`, as some clients make with every request) is not taken up, and the request answered.
    """

    def __init__(self, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._unread = bytearray()

    # For who inherits.

    def taken(self, num_bytes: int) -> None:
        """A piece of so many bytes was parsed, and all that follows from it has been done."""

    def refuse(self, status: int, message: str) -> None:
        """Answer to what is no request, and end the connection."""
        raise NotImplementedError

    def on_request(self) -> None:
        """Line and headers of a request are here."""
        super().on_headers_complete()

    def on_request_end(self) -> None:
        """A request is here, with its body."""
        super().on_message_complete()

    # What asyncio, the parser and uvicorn call.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._gate = Gate(transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._read_on()

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            self.on_request()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self.on_request_end()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._unread:
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._unset_keepalive_if_required()
        while self._unread and not self.pipeline:
            piece = bytes(self._unread[:PIECE_BYTES])
            del self._unread[:PIECE_BYTES]
            if not self.transport.is_closing():
                self._parse(piece)
            if not self.transport.is_closing():
                self.taken(len(piece))
        self._gate.close() if self._unread else self._gate.open()

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                return self.refuse(400, "this server is no proxy")
            # The parser takes what follows, a body too, for the other protocol: it reads the request again, without the offer.
            lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)]
            lines += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
            self._parse(b"\r\n".join(lines) + b"\r\n\r\n" + piece[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.refuse(400, "this is not HTTP")
