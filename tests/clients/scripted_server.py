"""A server that says what it is told to, on a real socket, and how each event looks on the wire."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

START = {
    "id": "smp-1",
    "model": "demo",
    "process": "absorbing",
    "seed": 7,
    "seq_len": 4,
    "num_inference_steps": 8,
    "tokens": [[5, 0, 0, 0], [0, 0, 0, 0]],
}
STATES: list[dict[str, Any]] = [
    {"step": 2, "t": 0.75, "nfe": 1, "changes": [[0, 1, 11], [1, 3, 12]], "text": ["the cät ░", "[MASK]"]},
    {"step": 5, "t": 0.375, "nfe": 2, "changes": [[0, 2, 13], [1, 0, 14], [1, 1, 15]]},
    {"step": 8, "t": 0.0, "nfe": 3, "changes": [[0, 1, 16], [0, 3, 17], [1, 2, 18]]},
]
BLOCK = {"block": 0, "start": 1, "end": 4}
DONE = {
    "id": "smp-1",
    "model": "demo",
    "seed": 7,
    "samples": [
        {"text": "the dög sat", "tokens": [5, 16, 13, 17], "finish_reason": "length"},
        {"text": "über", "tokens": [14, 15, 18, 12], "finish_reason": "stop"},
    ],
    "step_map": [[0, 8, 5, 8], [5, 5, 8, 2]],
    "finish_reason": "length",
    "usage": {"prompt_tokens": 1, "completion_tokens": 7, "nfe": 3, "forwards_skipped": 5},
    "timings": {"queue_ms": 0.5, "first_state_ms": 2, "total_ms": 9.25},
}
EVENTS = [("start", START), *(("state", state) for state in STATES), ("block", BLOCK), ("done", DONE)]


def sse(events: Sequence[tuple[str, object]] = EVENTS, *, newline: str = "\n") -> bytes:
    """The events as a server sends them, each with its id."""
    lines = ["retry: 2000", ""]
    for number, (name, data) in enumerate(events):
        lines += [f"id: {number}", f"event: {name}", f"data: {json.dumps(data, ensure_ascii=False)}", ""]
    return "".join(f"{line}{newline}" for line in lines).encode()


def json_sse(name: str, data: object) -> bytes:
    """An event in ASCII alone, where JSON can say what UTF-8 cannot."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


@dataclass
class Reply:
    """What the scripted server answers: `chunks` one by one, then what `ending` says; each time the `then` of the last.

    "end" ends the body, "abort" drops the connection, "hold" sends nothing more and waits for the client to leave.
    """

    chunks: Sequence[bytes]
    ending: str = "end"
    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    then: Reply | None = None


NOT_FOUND = Reply(
    [b'{"error": {"message": "not here", "type": "not_found"}}'], status=404, content_type="application/json"
)


@dataclass
class Request:
    """What the scripted server was asked."""

    method: str
    path: str
    authorization: str | None
    body: Any
    last_event_id: str | None = None


@dataclass
class Scripted:
    """A server that gives each path its reply."""

    replies: dict[str, Reply]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    client_left: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Scripted

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_DELETE(self) -> None:
        self._answer(None)

    def _answer(self, body: Any) -> None:
        headers = self.headers
        self.script.requests.append(
            Request(self.command, self.path, headers["Authorization"], body, headers["Last-Event-ID"])
        )
        reply = self.script.replies.get(self.path, NOT_FOUND)
        self.script.replies[self.path] = reply.then or reply
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in reply.chunks:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        if reply.ending == "end":
            self.wfile.write(b"0\r\n\r\n")
            return
        self.close_connection = True
        if reply.ending == "hold":
            self._wait_for_client_to_leave()

    def _wait_for_client_to_leave(self) -> None:
        self.connection.settimeout(10)
        try:
            left = self.connection.recv(1) == b""
        except TimeoutError:
            left = False
        except ConnectionResetError:
            left = True
        if left:
            self.script.client_left.set()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client may leave whenever it likes; anything else is a mistake of the script.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def scripted(**replies: Reply) -> Iterator[Scripted]:
    """A scripted server on a free port; `sample_block=` answers POST /sample/block."""
    script = Scripted({"/" + name.replace("_", "/"): reply for name, reply in replies.items()})
    handler = type("Handler", (_Handler,), {"script": script})
    server = _Server(("127.0.0.1", 0), handler)
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def closed_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answer(value: object, status: int = 200) -> Reply:
    return Reply([json.dumps(value).encode()], status=status, content_type="application/json")


def envelope(code: int | None = 422) -> dict[str, object]:
    message = "top_p must be in (0, 1], got 1.5"
    return {"error": {"message": message, "type": "invalid_request", "param": "top_p", "code": code}}
