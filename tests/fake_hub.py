"""A hub on 127.0.0.1: it makes repositories and takes commits, as far as `create_repo` and `upload_folder` ask for it, and gives
repositories away, as far as `snapshot_download` asks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+|[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
FILE = re.compile(r"/(?P<name>[^/]+/[^/]+|[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class Repository:
    """The files of one commit, which has `revisions` for names.

    gated: its files are for nobody. private: it is for the hub's token alone.
    """

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    private: bool = False

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    @classmethod
    def of(cls, folder: Path, **options: Any) -> Repository:
        """With the files of `folder`."""
        files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        return cls(files, **options)


class FakeHub(ThreadingHTTPServer):
    """`files` of the commits by their path; `created` are the bodies of what was asked to be made.

    `repositories` by name are given away; `asked` are the paths of all requests, `fetched` those of the files that were sent.
    `broken` is what it answers with when asked for a file (a status), if anything.
    """

    def __init__(self, token: str, role: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token, self.role = token, role
        self.created: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self.files: dict[str, bytes] = {}
        self.takes_commits = True
        self.repositories: dict[str, Repository] = {}
        self.fetched: list[str] = []
        self.asked: list[str] = []
        self.broken: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._give()

    def do_GET(self) -> None:
        if self._give():
            return None
        if self.headers.get("authorization") != f"Bearer {self.server.token}":
            return self._answer(401, {"error": "Invalid user token."})
        if self.path == "/api/whoami-v2":
            return self._answer(200, {"name": "ann", "auth": {"accessToken": {"role": self.server.role}}})
        return self._answer(200, {"id": "ann/run", "sha": "0" * 40, "siblings": []})

    def _give(self) -> bool:
        """Whether it was about a repository that may be fetched, or about one that there is not."""
        self.server.asked.append(self.path)
        path = urlsplit(self.path).path
        asked = REPOSITORY.fullmatch(path) or FILE.fullmatch(path)
        if asked is None or not self.server.repositories:
            return False
        repository = self.server.repositories.get(asked["name"])
        is_known = self.headers.get("authorization") == f"Bearer {self.server.token}"
        revision = unquote(asked["revision"] or "main")
        if repository is None or (repository.private and not is_known):
            self._refuse(401 if repository else 404, "RepoNotFound")
        elif revision not in (*repository.revisions, repository.commit):
            self._refuse(404, "RevisionNotFound")
        elif "path" not in asked.groupdict():
            self._describe(asked["name"], repository, asked["what"])
        elif self.server.broken is not None:
            self._refuse(self.server.broken, "")
        elif repository.gated:
            self._refuse(403, "GatedRepo")
        elif (path := unquote(asked["path"])) not in repository.files:
            self._refuse(404, "EntryNotFound")
        else:
            self._send(path, repository)
        return True

    def _describe(self, name: str, repository: Repository, what: str | None) -> None:
        if what == "tree":
            sizes = {path: len(content) for path, content in repository.files.items()}
            oids = {path: hashlib.sha1(content).hexdigest() for path, content in repository.files.items()}
            tree = [{"type": "file", "path": path, "size": sizes[path], "oid": oids[path]} for path in sizes]
            return self._answer(200, tree)
        siblings = [{"rfilename": path} for path in repository.files]
        return self._answer(200, {"id": name, "sha": repository.commit, "siblings": siblings})

    def _send(self, path: str, repository: Repository) -> None:
        """A file, or of it what a download that was cut off has not got yet."""
        content = repository.files[path]
        start = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("etag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("x-repo-commit", repository.commit)
        self.send_header("content-length", str(len(content) - start))
        if start:
            self.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.server.fetched.append(path)
            self.wfile.write(content[start:])

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("x-error-code", code)
        self.send_header("content-length", "0")
        self.end_headers()

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

    def _answer(self, status: int, content: Any) -> None:
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


@contextmanager
def hub_in_place(monkeypatch: Any, cache: Path) -> Iterator[FakeHub]:
    """A fake hub that this process takes for the hub: an empty cache, no token, and not offline."""
    with fake_hub() as hub:
        constants = "huggingface_hub.constants."
        monkeypatch.setattr(constants + "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants + "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants + "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants + "HF_TOKEN_PATH", str(cache / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub
