"""A proxy that drops all connections when it is told to, and lets nobody in while it is down."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.clients.cutting_proxy import pump


@dataclass
class Proxy:
    """`upstream` may be changed to the address of another server."""

    url: str
    upstream: str
    down: bool = False
    open: set[socket.socket] = field(default_factory=set)
    threads: list[threading.Thread] = field(default_factory=list)

    def sever(self) -> None:
        """End all connections where they are."""
        for end in list(self.open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def carry(self, client: socket.socket) -> None:
        """One connection to its end."""
        host, port = self.upstream.removeprefix("http://").split(":")
        with contextlib.suppress(OSError), client, socket.create_connection((host, int(port))) as server:
            ends = {client, server}
            self.open |= ends
            back = threading.Thread(target=pump, args=(client, server))
            back.start()
            pump(server, client)
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join()
            self.open -= ends


@contextmanager
def severing(url: str) -> Iterator[Proxy]:
    """A proxy before the server at `url`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(f"http://127.0.0.1:{listener.getsockname()[1]}", url)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    if proxy.down:
                        client.close()
                        continue
                    proxy.threads.append(threading.Thread(target=proxy.carry, args=(client,)))
                    proxy.threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(10)
            proxy.sever()
            for thread in proxy.threads:
                thread.join(10)
                assert not thread.is_alive()
