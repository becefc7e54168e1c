"""A run, recorded from a server and told again at a pace of one's own: the page has all the work, the engine none."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

END = b"\n\n"
"""Of an event on the wire."""


def record(url: str, path: str, body: dict[str, Any]) -> list[bytes]:
    """The events of a run, as they came, each with its end. Raises RuntimeError if it did not end with `done`."""
    with httpx2.Client(timeout=None) as client, client.stream("POST", url + path, json=body) as response:
        text = response.read()
    events = [event + END for event in text.split(END) if event]
    if response.status_code != 200 or b"event: done" not in events[-1]:
        raise RuntimeError(f"{path} answered {response.status_code}: {text[-200:]!r}")
    return events


@contextmanager
def replaying(url: str, events: Sequence[bytes], states_per_s: float) -> Iterator[str]:
    """The address of a server that is the one at `url`, but that answers every POST with `events`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            answer = httpx2.get(url + self.path, headers={"Accept": self.headers.get("Accept", "*/*")})
            self.send_response(answer.status_code)
            for name in ("Content-Type", "Content-Security-Policy", "ETag", "Cache-Control"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(answer.content)))
            with contextlib.suppress(OSError):  # whoever leaves need not hear the rest
                self.end_headers()
                self.wfile.write(answer.content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            due = time.monotonic()
            with contextlib.suppress(OSError):
                self.end_headers()  # HTTP/1.0: the connection's end is the answer's
                for event in events:
                    self.wfile.write(event)
                    due += 1 / states_per_s
                    time.sleep(max(0.0, due - time.monotonic()))

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
