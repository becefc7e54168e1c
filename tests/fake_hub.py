"""A hub on 127.0.0.1: it makes repositories and takes commits, as far as `create_repo` and `upload_folder` ask for it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub(ThreadingHTTPServer):
    """`files` of the commits by their path; `created` are the bodies of what was asked to be made."""

    def __init__(self, token: str, role: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token, self.role = token, role
        self.created: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self.files: dict[str, bytes] = {}
        self.takes_commits = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.headers.get("authorization") != f"Bearer {self.server.token}":
            return self._answer(401, {"error": "Invalid user token."})
        if self.path == "/api/whoami-v2":
            return self._answer(200, {"name": "ann", "auth": {"accessToken": {"role": self.server.role}}})
        return self._answer(200, {"id": "ann/run", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("authorization") != f"Bearer {self.server.token}":
            return self._answer(401, {"error": "Invalid user token."})
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            self.server.created.append(wanted)
            name = f"{wanted.get('organization') or 'ann'}/{wanted['name']}"
            return self._answer(200, {"url": f"{self.server.url}/{name}", "name": name})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if self.path.endswith("/commit/main"):
            return self._commit(body)
        return self._answer(200, {})

    def _commit(self, body: bytes) -> None:
        if not self.server.takes_commits:
            return self._answer(403, {"error": "no space left for you"})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            else:
                self.server.files[value["path"]] = base64.b64decode(value["content"])
        commit = {"commitUrl": f"{self.server.url}/ann/run/commit/{'0' * 40}", "commitOid": "0" * 40}
        return self._answer(200, {**commit, "success": True})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def fake_hub(token: str = "hf_right", role: str = "write") -> Iterator[FakeHub]:
    """Serves in a thread until left."""
    hub = FakeHub(token, role)
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
