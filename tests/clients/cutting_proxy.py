"""A proxy that cuts connections in the middle of what the server says: what a network does, at a place that is known."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() send RST."""


@dataclass
class Proxy:
    """`cuts`: bytes of the server's that a connection may carry, one number a connection; those after them carry all."""

    url: str
    cuts: list[int]
    reset: bool = False
    connections: list[threading.Thread] = field(default_factory=list)
    num_cut: int = 0

    def carry(self, client: socket.socket, upstream: tuple[str, int]) -> None:
        left = self.cuts.pop(0) if self.cuts else None
        with client, socket.create_connection(upstream) as server:
            back = threading.Thread(target=pump, args=(client, server))
            back.start()
            with contextlib.suppress(OSError):
                while data := server.recv(2**16 if left is None else max(left, 1)):
                    if left is not None and len(data) >= left:
                        client.sendall(data[:left])
                        self.num_cut += 1
                        break
                    client.sendall(data)
                    left = None if left is None else left - len(data)
            if self.reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            for end, how in ((client, socket.SHUT_RD if self.reset else socket.SHUT_RDWR), (server, socket.SHUT_RDWR)):
                with contextlib.suppress(OSError):
                    end.shutdown(how)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """What one end says, to the other, until it has said all."""
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def cutting(url: str, cuts: Sequence[int], *, reset: bool = False) -> Iterator[Proxy]:
    """A proxy before the server at `url`."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(f"http://127.0.0.1:{listener.getsockname()[1]}", list(cuts), reset)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    thread = threading.Thread(target=proxy.carry, args=(client, (host, int(port))))
                    proxy.connections.append(thread)
                    thread.start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(10)
            for thread in proxy.connections:
                thread.join(10)
                assert not thread.is_alive()
