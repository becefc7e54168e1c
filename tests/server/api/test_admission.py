"""What a request waits for before and after its rows: its text, and never longer than it asked to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

import server.api.admission
import server.api.events
from tests.live_server import LiveServer, faked, serving
from token_diffusion import text
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.text import encoding

pytest_plugins = ["tests.server_fixtures"]

SMALL = {"seq_len": 4, "num_inference_steps": 2, "stream": False, "prompt": "w1"}


@pytest.fixture(scope="module")
def served(tiny: Mapping[str, Checkpoint]) -> Iterator[LiveServer]:
    with serving({"uniform": faked(tiny["uniform"])[0]}) as live:
        yield live


def test_a_text_that_cannot_fit_is_refused_by_its_length(served: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_plain", lambda *_: pytest.fail("it was tokenised"))
    refused = served.post("/sample", SMALL | {"prompt": "w1 " * 500})
    rule = "prompt must fit into seq_len = 4 tokens, each of at most 100 characters, got '1500 characters'"
    assert (refused.status_code, refused.json()["error"]["message"]) == (422, rule)
    template = served.post("/sample", {"template": "w1 " * 15_000 * 2, "stream": False})
    assert template.status_code == 413 or "characters" in template.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stage", ["encode", "ending"])
def test_a_slow_tokenizer_does_not_keep_anybody_beyond_timeout_s(
    served: LiveServer, monkeypatch: pytest.MonkeyPatch, stage: str, stream: bool
) -> None:
    release = threading.Event()
    room = server.api.admission if stage == "encode" else server.api.events
    done: Any = getattr(text, stage)

    def stuck(*arguments: Any, **options: Any) -> Any:
        release.wait(10)
        return done(*arguments, **options)

    monkeypatch.setattr(room, stage, stuck)
    began = time.monotonic()
    answer = served.post("/sample", SMALL | {"stream": stream, "timeout_s": 0.5})
    seconds = time.monotonic() - began
    release.set()
    error = json.loads(answer.text.strip().split("data: ")[-1].split("\n")[0])["error"]
    assert (error["type"], error["code"], error["message"]) == ("timeout", 504, "not finished within 0.5 s")
    assert answer.status_code == (200 if stream and stage == "ending" else 504)
    assert 0.5 <= seconds < 5  # not the tokenizer's ten
    monkeypatch.undo()
    assert served.post("/sample", SMALL).status_code == 200


def test_many_texts_of_one_client_are_one_ahead_of_another(
    served: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    begun, release = threading.Event(), threading.Event()

    def noted(*arguments: Any, prompt: str | None, **options: Any) -> list[int]:
        order.append(prompt or "")
        begun.set()
        release.wait(10)
        return text.encode(*arguments, prompt=prompt, **options)

    def ask(source: str, prompt: str) -> int:
        transport = httpx2.HTTPTransport(local_address=source)
        with httpx2.Client(transport=transport, timeout=30) as client:
            return client.post(served.url + "/sample", json=SMALL | {"prompt": prompt}).status_code

    monkeypatch.setattr(server.api.admission, "encode", noted)
    with ThreadPoolExecutor(6) as pool:
        greedy = [pool.submit(ask, "127.0.0.2", "w2") for _ in range(4)]
        assert begun.wait(10)
        connections = served.process.server_state.tasks
        while len(connections) < 4:
            time.sleep(0.002)
        shy = pool.submit(ask, "127.0.0.1", "w1")
        while len(connections) < 5:
            time.sleep(0.002)
        time.sleep(0.1)  # from its task to its place in the line
        release.set()
        assert [answer.result() for answer in [*greedy, shy]] == [200] * 5
    assert order.index("w1") <= 2


NONSENSE = {
    "keys": b"{" + b",".join(b'"%x":0' % number for number in range(8000)) + b"}",
    "deep": b"[" * 60_000,
    "digits": b'{"seed":[' + b",".join([b"9" * 4000] * 15) + b"]}",
    "lists": b'{"prompt":[' + b",".join([b"[]"] * 20_000) + b"]}",
}


@pytest.mark.parametrize("shape", NONSENSE)
def test_nonsense_is_refused_in_less_time_than_a_person_notices(served: LiveServer, shape: str) -> None:
    headers = {"Content-Type": "application/json"}
    taken_s = []
    for _ in range(5):
        began = time.process_time()
        answer = httpx2.post(served.url + "/sample", content=NONSENSE[shape], headers=headers, timeout=30)
        taken_s.append(time.process_time() - began)
        assert answer.status_code in (400, 422) and len(answer.content) < 500
    assert min(taken_s) < 0.1  # of this process, client and all; it was 0.5 s for `keys`


def test_a_body_in_chunks_of_a_byte_is_read_quickly(served: LiveServer) -> None:
    body = json.dumps(SMALL).encode().ljust(60_000)
    head = b"POST /sample HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(served.url.rsplit(":", 1)[1])), timeout=30) as client:
        client.sendall(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
