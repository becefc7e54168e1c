"""The endpoints over a real socket, with real tiny checkpoints."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import httpx2
import pytest

import server.api.admission
import server.api.events
from server.api.protocol.events import EVENT_NAMES
from tests.live_server import (
    MAX_POSITIONS,
    LiveServer,
    done_of,
    faked,
    replay,
    serving,
    tiny_tokenizer,
    tokens_of,
    wait_until,
)
from tests.tiny import save_tiny
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.facts import Facts, Frame
from token_diffusion.text import decode

pytest_plugins = ["tests.server_fixtures"]

MASK = tiny_tokenizer().mask_token_id

ENDPOINTS: list[tuple[str, dict[str, Any]]] = [
    ("/sample", {"model": "absorbing"}),
    ("/sample", {"model": "absorbing", "num_inference_steps": None}),
    ("/sample", {"model": "uniform"}),
    ("/sample/block", {"model": "absorbing", "block_size": 8}),
    ("/sample/block", {"model": "uniform", "block_size": 8}),
    ("/sample/block", {"model": "hybrid", "block_size": 8}),
    ("/sample/hybrid", {"model": "hybrid"}),
]

REQUEST = {"seq_len": 20, "num_samples": 2, "num_inference_steps": 16, "seed": 5, "prompt": "w3 w4 w5"}

LONG = {"seq_len": 64, "num_inference_steps": 1000}
"""64 forward passes or a few less."""


def of_type(events: list[httpx2.ServerSentEvent], name: str) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in events if event.event == name]


@pytest.mark.parametrize(("path", "fields"), ENDPOINTS)
def test_start_and_changes_replay_to_done(live: LiveServer, path: str, fields: dict[str, Any]) -> None:
    events = live.events(path, REQUEST | fields)
    start, done = of_type(events, "start")[0], done_of(events)
    assert [event.event for event in events].count("start") == 1
    assert start["model"] == fields["model"] == start["process"]
    assert (start["seed"], start["seq_len"]) == (5, 20)
    assert replay(events) == tokens_of(done)
    assert [len(tokens) for tokens in tokens_of(done)] == [20, 20]
    prompt = tiny_tokenizer()("w3 w4 w5")["input_ids"]
    assert all(tokens[:3] == prompt and MASK not in tokens for tokens in tokens_of(done))
    assert all(sample["text"] == decode(tiny_tokenizer(), sample["tokens"]) for sample in done["samples"])
    changed = {(sample, position) for state in of_type(events, "state") for sample, position, _ in state["changes"]}
    assert all(position >= 3 for _, position in changed)
    assert {(s, p) for s in range(2) for p in range(20) if done["step_map"][s][p] > 0} == changed
    assert of_type(events, "state")[-1]["t"] == 0
    steps = [state["step"] for state in of_type(events, "state")]
    assert steps == sorted(steps)
    assert done["finish_reason"] == "length"
    assert done["usage"]["prompt_tokens"] == 3
    assert done["usage"]["nfe"] == of_type(events, "state")[-1]["nfe"]
    assert 0 <= done["timings"]["queue_ms"] <= done["timings"]["first_state_ms"] <= done["timings"]["total_ms"]


@pytest.mark.parametrize(("path", "fields"), ENDPOINTS)
def test_the_plain_answer_is_the_streams_last(live: LiveServer, path: str, fields: dict[str, Any]) -> None:
    streamed = done_of(live.events(path, REQUEST | fields))
    response = live.post(path, REQUEST | fields | {"stream": False})
    assert response.headers["content-type"] == "application/json"
    plain = response.json()
    assert set(plain) == set(streamed)
    for key in set(plain) - {"id", "timings"}:
        assert plain[key] == streamed[key]


@pytest.mark.parametrize(("path", "fields"), ENDPOINTS)
def test_a_seed_gives_the_same_samples_alone_and_among_seven_strangers(
    live: LiveServer, path: str, fields: dict[str, Any]
) -> None:
    body = REQUEST | fields | {"stream": False}
    alone = tokens_of(live.post(path, body).json())
    strangers = [
        body | {"seed": 100 + i, "seq_len": 12 + 9 * i, "num_samples": 1 + i % 3, "temperature": 0.5 + i / 7}
        for i in range(7)
    ]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda wire: live.post(path, wire).json(), [*strangers[:4], body, *strangers[4:]]))
    assert tokens_of(answers[4]) == alone
    assert len({str(tokens_of(answer)) for answer in answers}) == 8


def test_blocks_are_told_in_order_and_hold_what_they_say(live: LiveServer) -> None:
    events = live.events("/sample/block", REQUEST | {"block_size": 8})
    blocks = of_type(events, "block")
    assert [block["block"] for block in blocks] == [0, 1, 2]
    assert [(block["start"], block["end"]) for block in blocks] == [(3, 11), (11, 19), (19, 20)]
    final = tokens_of(done_of(events))
    for block in blocks:
        number = next(
            n for n, event in enumerate(events) if event.event == "block" and json.loads(event.data) == block
        )
        seen = replay(events[: number + 1])
        assert [row[: block["end"]] for row in seen] == [row[: block["end"]] for row in final]
    assert not of_type(live.events("/sample", REQUEST), "block")


def test_a_drawn_seed_is_returned_and_gives_the_samples_again(live: LiveServer) -> None:
    body = {"seq_len": 20, "num_inference_steps": 8}
    first = live.post("/sample", body | {"stream": False}).json()
    assert 0 <= first["seed"] < 2**53
    again = live.post("/sample", body | {"stream": False, "seed": first["seed"]}).json()
    other = live.post("/sample", body | {"stream": False}).json()
    assert tokens_of(again) == tokens_of(first)
    assert other["seed"] != first["seed"] and tokens_of(other) != tokens_of(first)
    start = of_type(live.events("/sample", body), "start")[0]
    assert 0 <= start["seed"] < 2**53


def test_a_template_is_filled_in_at_its_own_length(live: LiveServer) -> None:
    body = {"template": "w1 [MASK] w2 [MASK] [MASK]", "stream": False}
    done = live.post("/sample", body).json()
    tokens = tokens_of(done)[0]
    fixed = tiny_tokenizer()("w1 w2")["input_ids"]
    assert len(tokens) == 5 and [tokens[0], tokens[2]] == fixed
    assert done["usage"]["prompt_tokens"] == 2 and done["usage"]["completion_tokens"] == 3
    assert len(tokens_of(live.post("/sample", body | {"seq_len": 9}).json())[0]) == 9


def test_a_sample_lies_in_the_frame_of_its_checkpoint(tmp_path: Path) -> None:
    """Its control tokens are fixed positions of `tokens`, and neither text nor counted."""
    facts = Facts(Frame((2,), (3,)), known=True)
    folder = save_tiny(tmp_path / "framed", "absorbing", facts=facts)
    with serving({"framed": load_checkpoint(folder, name="framed")}) as server:
        (model,) = server.get("/models").json()["models"]
        assert model["frame"] == {"prefix": [2], "suffix": [3]}
        body = {"prompt": "w1 w2", "seq_len": 9, "num_samples": 2, "num_inference_steps": 4}
        events = server.events("/sample", body)
        done = done_of(events)
        assert replay(events) == tokens_of(done)
        for sample in done["samples"]:
            assert sample["tokens"][:3] == [2, 6, 7] and sample["tokens"][-1] == 3 and len(sample["tokens"]) == 9
            assert not {0, 2, 3, 4} & set(sample["tokens"][1:-1])
            assert sample["text"].startswith("w1 w2") and "[" not in sample["text"]
        assert done["usage"]["prompt_tokens"] == 2 and done["usage"]["completion_tokens"] == 10
        assert all(row[:3] == [0, 0, 0] and row[-1] == 0 for row in done["step_map"])
        filled = server.post("/sample/block", {"template": "w1 [MASK]", "stream": False}).json()
        assert len(tokens_of(filled)[0]) == 4
        refused = server.post("/sample", {"seq_len": 2})
        assert refused.status_code == 422
        assert (
            refused.json()["error"]["message"] == "seq_len must be more than 2, the control tokens of the frame, got 2"
        )


def test_a_template_without_holes_is_done_at_once(live: LiveServer) -> None:
    events = live.events("/sample", {"template": "w1 w2"})
    assert replay(events) == tokens_of(done_of(events)) == [tiny_tokenizer()("w1 w2")["input_ids"]]
    assert done_of(events)["usage"] == {"prompt_tokens": 2, "completion_tokens": 0, "nfe": 0, "forwards_skipped": 0}


def test_mask_typed_in_a_prompt_is_text(live: LiveServer) -> None:
    events = live.events("/sample", {"prompt": "w1 [MASK] w2", "seq_len": 12, "num_inference_steps": 4})
    start = of_type(events, "start")[0]["tokens"][0]
    length = len(start) - start.count(MASK)
    assert length > 3 and MASK not in start[:length]
    assert tokens_of(done_of(events))[0][:length] == start[:length]


def test_states_carry_text_when_asked(live: LiveServer) -> None:
    events = live.events("/sample", REQUEST | {"include_text": True})
    states = of_type(events, "state")
    assert all(len(state["text"]) == 2 for state in states)
    assert states[0]["text"][0].startswith("w3 w4 w5 ") and "[MASK]" in states[0]["text"][0]
    assert states[-1]["text"] == [sample["text"] for sample in done_of(events)["samples"]]
    for number, event in enumerate(events):
        if event.event == "state":
            holes = sum(row.count(MASK) for row in replay(events[: number + 1]))
            assert sum(text.count("[MASK]") for text in json.loads(event.data)["text"]) == holes
    assert "text" not in of_type(live.events("/sample", REQUEST), "state")[0]


def test_keyframes_come_when_asked_and_are_the_state_so_far(live: LiveServer, tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.05)  # so slow that a busy reader still sees most states
    with serving({"absorbing": checkpoint}) as server:
        events = server.events("/sample", REQUEST | {"keyframe_every": 3})
    states = [(number, json.loads(event.data)) for number, event in enumerate(events) if event.event == "state"]
    assert len(states) > 6
    for count, (number, state) in enumerate(states, 1):
        assert ("keyframe" in state) == (count % 3 == 0)
        if count % 3 == 0:
            assert state["keyframe"] == replay(events[: number + 1])
    assert all("keyframe" not in state for state in of_type(live.events("/sample", REQUEST), "state"))


def test_stream_every_merges_updates(live: LiveServer) -> None:
    every = live.events("/sample", REQUEST)
    merged = live.events("/sample", REQUEST | {"stream_every": 5})
    # Each forward pass is an update; a reader that is slow gets fewer states in either stream.
    num_updates = done_of(merged)["usage"]["nfe"]
    assert num_updates > 10 and len(of_type(merged, "state")) <= -(-num_updates // 5) + 1
    assert replay(merged) == replay(every) == tokens_of(done_of(merged))


def test_a_stream_has_the_headers_that_proxies_need_and_names_its_request(live: LiveServer) -> None:
    with httpx2.stream("POST", live.url + "/sample", json=REQUEST, headers={"X-Request-Id": "mine-1"}) as response:
        text = response.read().decode()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-request-id"] == "mine-1"
    assert text.count("retry: ") == 1 and text.index("retry: ") < text.index("event: state")
    assert "mine-1" not in text and '"id":"smp-' in text, (
        "ids open what they name: the server's own, which nobody guesses"
    )


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("/sample", {"steps": 5}, "steps", "steps is not a field of this request, got 5"),
        ("/sample", {"keyframe_every": 0}, "keyframe_every", "keyframe_every must be >= 1, got 0"),
        ("/sample", {"block_size": 5}, "block_size", "block_size is not a field of this request, got 5"),
        ("/sample", {"top_p": 0}, "top_p", "top_p must be in (0, 1], got 0"),
        ("/sample", {"top_p": 1.5}, "top_p", "top_p must be in (0, 1], got 1.5"),
        ("/sample", {"temperature": -1}, "temperature", "temperature must be >= 0, got -1"),
        ("/sample", {"num_samples": 0}, "num_samples", "num_samples must be in [1, "),
        ("/sample", {"num_samples": 17}, "num_samples", "num_samples must be at most 16 on this server, got 17"),
        ("/sample", {"num_samples": True}, "num_samples", "got True"),
        ("/sample", {"seq_len": 0}, "seq_len", "seq_len must be in [1, "),
        ("/sample", {"seq_len": 5000}, "seq_len", "seq_len must be at most 1024 on this server, got 5000"),
        ("/sample", {"seq_len": MAX_POSITIONS + 1}, "seq_len", f"seq_len must be at most {MAX_POSITIONS}, "),
        ("/sample", {"seq_len": 10**30}, "seq_len", "seq_len must be"),
        ("/sample", {"template": "[MASK]" * 9999}, "template", "template must fit into 1024 tokens, got '9999 holes'"),
        ("/sample", {"template": "w1 " * 200}, "seq_len", f"seq_len must be at most {MAX_POSITIONS}, "),
        ("/sample", {"prompt": "w1 " * 9, "seq_len": 5}, "prompt", "prompt must fit into seq_len = 5 tokens, got"),
        ("/sample", {"prompt": "w1", "template": "w2"}, "template", "template must be absent where prompt is given"),
        ("/sample", {"num_inference_steps": 0}, "num_inference_steps", "num_inference_steps must be in [1, "),
        ("/sample", {"num_inference_steps": 10**6}, "num_inference_steps", "must be at most 10000 on this server"),
        ("/sample", {"num_inference_steps": None, "model": "uniform"}, "num_inference_steps", "be an integer for the"),
        ("/sample", {"seed": -1}, "seed", "seed must be greater than or equal to 0, got -1"),
        ("/sample", {"timeout_s": 0}, "timeout_s", "timeout_s must be > 0, got 0"),
        ("/sample", {"timeout_s": 601}, "timeout_s", "timeout_s must be at most 600 on this server, got 601"),
        ("/sample", {"stream_every": 0}, "stream_every", "stream_every must be >= 1, got 0"),
        ("/sample", {"model": "gpt"}, "model", "model must be one of the loaded checkpoints, absorbing (absorbing), "),
        ("/sample", {"model": "hybrid"}, "model", "/sample needs a checkpoint of the process absorbing or uniform"),
        ("/sample/hybrid", {"model": "uniform"}, "model", "/sample/hybrid needs a checkpoint of the process hybrid; "),
        ("/sample/block", {"block_size": 0}, "block_size", "block_size must be in [1, "),
        ("/sample", [], None, "the body must be a JSON object"),
        ("/sample", None, None, "the body must be a JSON object"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_cannot_be_served_is_422_with_name_rule_and_value(
    live: LiveServer, path: str, body: Any, param: str | None, message: str, stream: bool
) -> None:
    response = live.post(path, body | {"stream": stream} if isinstance(body, dict) else body)
    error = response.json()["error"]
    assert response.status_code == error["code"] == 422
    assert message in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request", param)
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"{", 400, "the body is not JSON"),
        (b'{"seed": 1,}', 400, "the body is not JSON"),
        (b"\xff\xfe{", 400, "not UTF-8"),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400, "too many digits"),
        (b"[" * 60_000, 400, "nested too deeply"),
        (b"[" * 100_000, 413, "body"),
        (b"[" * 900 + b"]" * 900, 422, "the body must be a JSON object"),
        (b'{"seed": ' + b"[" * 900 + b"]" * 900 + b"}", 422, "seed must be a valid integer, got [[[[[[[...]]]]]]]"),
        (b"{" + b", ".join(b'"%x": 0' % i for i in range(65)) + b"}", 422, "at most 64 fields, got 65"),
        (b'{"top_p": NaN}', 422, "top_p must be a finite number, got nan"),
        (b'{"temperature": Infinity}', 422, "temperature must be a finite number, got inf"),
        (b'{"temperature": 1e999}', 422, "temperature must be a finite number, got inf"),
        (b'{"prompt": "\\ud800"}', 422, "prompt must hold no half of a surrogate pair"),
        (b'{"' + b"x" * 10_000 + b'": 1}', 422, "... is not a field"),
        (b'{"\\ud800": 1}', 422, "'\\ud800' is not a field of this request"),
        (b'{"prompt": "' + b"x" * 1_000_000 + b'"}', 413, "the body must be at most 69632 bytes"),
    ],
)
def test_bodies_that_cannot_be_read(live: LiveServer, content: bytes, status: int, message: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = httpx2.post(live.url + "/sample", content=content, headers=headers, timeout=30)
    error = response.json()["error"]
    assert response.status_code == error["code"] == status
    assert message in error["message"] and len(error["message"]) < 300


def test_a_body_without_its_content_type_is_told_so(live: LiveServer) -> None:
    response = httpx2.post(live.url + "/sample", content=b"{}", headers={"Content-Type": "text/plain"})
    assert response.status_code == 422
    assert "Content-Type: application/json" in response.json()["error"]["message"]


def test_an_endpoint_that_no_checkpoint_fits_says_what_it_found(tiny: Mapping[str, Checkpoint]) -> None:
    with serving({"demo": faked(tiny["absorbing"], name="demo")[0]}) as server:
        error = server.post("/sample/hybrid", {}).json()["error"]
        assert error["message"] == (
            "/sample/hybrid needs a checkpoint of the process hybrid; loaded: demo (absorbing)"
        )
        assert error["code"] == 422


def test_without_a_model_the_first_that_fits_is_taken(live: LiveServer) -> None:
    body = {"seq_len": 4, "num_inference_steps": 2, "stream": False}
    assert live.post("/sample", body).json()["model"] == "absorbing"
    assert live.post("/sample/block", body).json()["model"] == "absorbing"
    assert live.post("/sample/hybrid", body).json()["model"] == "hybrid"


def test_unknown_paths_and_methods_have_the_same_envelope(live: LiveServer) -> None:
    for response, status in ((live.get("/nothing"), 404), (live.get("/sample"), 405), (live.post("/health", {}), 405)):
        assert response.status_code == response.json()["error"]["code"] == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_the_server_describes_itself(live: LiveServer) -> None:
    assert live.get("/health").json() == {"status": "ok"}
    assert live.get("/ready").json() == {"status": "ready"}
    models = live.get("/models").json()["models"]
    assert [(model["name"], model["process"]) for model in models] == [
        (name, name) for name in live.engine.checkpoints
    ]
    samplers = [each["name"] for each in models[0].pop("samplers")]
    assert samplers[0] == "ancestral" and "confidence" in samplers
    assert models[0] == {
        "name": "absorbing",
        "family": None,
        "process": "absorbing",
        "alpha_schedule": "log_linear",
        "time_input": "none",
        "dtype": "float32",
        "backend": "torch",
        "max_seq_len": MAX_POSITIONS,
        "block_size": None,
        "num_classes": 0,
        "vocab_size": 50,
        "mask_token_id": MASK,
        "mask_token": "[MASK]",
        "batching": "shared",
        "frame": {"prefix": [], "suffix": []},
        "end_tokens": [],
    }
    assert [model["alpha_schedule"] for model in models] == ["log_linear", "log_linear", None]
    info = live.get("/info").json()
    assert info["models"] == live.get("/models").json()["models"]
    assert (info["device"], info["dtype"], info["determinism"]) == ("cpu", "float32", "fast")
    assert info["limits"]["max_seq_len"] == 1024
    assert info["load"].pop("ticks") >= 0 and info["load"].pop("work_per_s") > 0
    assert info["load"] == {"rows": 0, "running": 0, "waiting": 0, "outstanding_work": 0}


def test_the_documentation_describes_the_events(live: LiveServer) -> None:
    schema = live.get("/openapi.json").json()
    assert live.get("/docs").status_code == 200
    for path in ("/sample", "/sample/block", "/sample/hybrid"):
        content = schema["paths"][path]["post"]["responses"]["200"]["content"]
        assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/DoneEvent"}
        events = content["text/event-stream"]["itemSchema"]["oneOf"]
        assert [event["properties"]["event"]["const"] for event in events] == list(EVENT_NAMES.values())
    references = json.dumps(schema).split('"$ref": "')[1:]
    names = {reference.split('"')[0].removeprefix("#/components/schemas/") for reference in references}
    assert names <= set(schema["components"]["schemas"])
    assert {model.__name__ for model in EVENT_NAMES} <= names


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_gives_its_rows_back_within_a_step(tiny: Mapping[str, Checkpoint], stream: bool) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.05)
    with serving({"absorbing": checkpoint}) as server:
        body = json.dumps(LONG | {"stream": stream, "num_samples": 3}).encode()
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as client:
            client.sendall(
                b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            wait_until(lambda: denoiser.calls >= 3)
            assert server.engine.jobs.rows == 3
        calls = denoiser.calls
        wait_until(lambda: server.engine.jobs.rows == 0, timeout_s=1)
        # The step that was running, and one that may have begun before the end of the connection was noticed.
        assert denoiser.calls <= calls + 2
        assert server.post("/sample", {"seq_len": 4, "num_inference_steps": 2, "stream": False}).status_code == 200


def test_a_reader_that_does_not_read_holds_up_nobody_and_misses_nothing(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, _ = faked(tiny["uniform"])
    body = {
        "seq_len": 512,
        "num_samples": 16,
        "num_inference_steps": 150,
        "include_text": True,
        "seed": 3,
        "timeout_s": 60,
    }
    with serving({"uniform": checkpoint}) as server, socket.socket() as client:
        expected = server.post("/sample", body | {"stream": False, "include_text": False}).json()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
        data = json.dumps(body).encode()
        client.sendall(
            b"POST /sample HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        wait_until(lambda: server.engine.jobs.rows == 16)
        assert server.post("/sample", {"seq_len": 4, "num_inference_steps": 2, "stream": False}).status_code == 200
        wait_until(lambda: server.engine.idle, timeout_s=30)
        received = b"".join(iter(lambda: client.recv(2**20), b""))
    events = _parse(received)
    assert len(events) < expected["usage"]["nfe"], "states were merged"
    assert replay(events) == tokens_of(done_of(events)) == tokens_of(expected)


def _parse(response: bytes) -> list[httpx2.ServerSentEvent]:
    """The events of a whole chunked HTTP response."""
    _, _, rest = response.partition(b"\r\n\r\n")
    text = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        text += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    answer = httpx2.Response(
        200, headers={"Content-Type": "text/event-stream"}, content=text, request=httpx2.Request("POST", "http://x")
    )
    return list(httpx2.EventSource(answer, max_event_size=None))


def test_too_much_work_is_429_before_the_stream_begins(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.02)
    work = LONG["seq_len"] ** 2
    with (
        serving({"absorbing": checkpoint}, max_outstanding_work=4 * work) as server,
        server.reading("/sample", LONG) as one,
        server.reading("/sample", LONG) as two,
    ):
        assert next(one).event == next(two).event == "start"
        wait_until(lambda: server.engine.jobs.num_running == 2)
        refused = server.post("/sample", LONG)
        assert refused.status_code == refused.json()["error"]["code"] == 429
        assert refused.json()["error"]["type"] == "overloaded"
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        load = server.get("/info").json()["load"]
        assert load.pop("ticks") >= 1 and load.pop("work_per_s") > 0 and work < load.pop("outstanding_work") < 2 * work
        assert load == {"rows": 2, "running": 2, "waiting": 0}


def test_who_is_refused_anyway_costs_no_text(tiny: Mapping[str, Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.02)
    with (
        serving({"absorbing": checkpoint}, max_outstanding_work=LONG["seq_len"] ** 2 // 2) as server,
        server.reading("/sample", LONG) as events,
    ):
        assert next(events).event == "start"
        monkeypatch.setattr("server.api.admission.encode", None)
        assert server.post("/sample", REQUEST).status_code == 429


def test_too_dear_a_request_is_422_and_says_what_makes_it_dear(tiny: Mapping[str, Checkpoint]) -> None:
    with serving(tiny, max_request_work=1000) as server:
        body = {"num_samples": 2, "seq_len": 24, "num_inference_steps": 50, "block_size": 8, "stream": False}
        error = server.post("/sample/block", body).json()["error"]
        assert error["code"] == 422 and error["message"] == (
            "num_samples 2 x seq_len 24 x 24 forward passes, which num_inference_steps 50 and block_size 8 may need, "
            "are 1152 token passes; this server takes at most 1000 a request"
        )
        assert (
            server.post("/sample/block", body | {"model": "uniform"}).json()["error"]["message"].count("150 forward")
            == 1
        )
        few = body | {"num_inference_steps": 2}
        assert server.post("/sample/block", few).status_code == 200
        filled = body | {"template": "w1 w2 w3 [MASK]"}  # its price is known once it is tokenised
        assert server.post("/sample/block", filled | {"seq_len": 20}).status_code == 200


def test_dear_requests_do_not_hold_up_a_short_one(tiny: Mapping[str, Checkpoint]) -> None:
    """As many as fit: they are of one client, as this one is."""
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.002)
    attack = {"num_samples": 16, "seq_len": 512, "num_inference_steps": 10_000, "block_size": 1, "timeout_s": 600}
    with (
        serving({"absorbing": checkpoint}, max_batch_tokens=2048, max_outstanding_work=2**26) as server,
        ExitStack() as stack,
    ):
        streams = [stack.enter_context(server.reading("/sample/block", attack)) for _ in range(4)]
        assert [next(stream).event for stream in streams] == ["start"] * 4
        wait_until(lambda: server.engine.jobs.num_running == 4)
        for _ in range(3):
            before = denoiser.calls
            done = server.post("/sample", {"seq_len": 8, "num_inference_steps": 8, "stream": False}).json()
            # Five requests in turn, and two ticks that may go to others before the first.
            assert denoiser.calls - before <= 5 * done["usage"]["nfe"] + 5
        assert server.engine.jobs.rows == 64


@pytest.mark.parametrize("waits", [False, True])
def test_a_request_whose_time_is_over_ends_with_an_error(tiny: Mapping[str, Checkpoint], waits: bool) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.02)
    with (
        serving({"absorbing": checkpoint}) as server,
        server.reading("/sample", LONG) if waits else nullcontext(),
    ):
        wait_until(lambda: server.engine.jobs.rows == int(waits))
        body = LONG | {"timeout_s": 0.2}
        streamed = json.loads(server.events("/sample", body)[-1].data)["error"]
        plain = server.post("/sample", body | {"stream": False})
        assert plain.status_code == 504
        assert streamed == plain.json()["error"]
        assert streamed == {
            "message": "not finished within 0.2 s",
            "type": "timeout",
            "param": "timeout_s",
            "code": 504,
        }
        wait_until(lambda: server.engine.jobs.rows == int(waits), timeout_s=2)


@pytest.mark.parametrize("stream", [True, False])
def test_time_spent_on_the_text_counts_too(live: LiveServer, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """One slow text holds up the others' texts, but nobody longer than they want to wait."""
    encode = server.api.admission.encode

    def slow(*arguments: Any, **options: Any) -> list[int]:
        if options["prompt"] == "w3":
            time.sleep(1.0)
        return encode(*arguments, **options)

    monkeypatch.setattr(server.api.admission, "encode", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(live.post, "/sample", REQUEST | {"prompt": "w3"})
        time.sleep(0.2)
        start = time.monotonic()
        answer = live.post("/sample", REQUEST | {"timeout_s": 0.2, "stream": stream})
        assert time.monotonic() - start < 0.7
        assert answer.status_code == 504 and answer.json()["error"]["type"] == "timeout"
        assert first.result().status_code == 200


def test_the_default_timeout_yields_to_a_shorter_limit_of_the_server(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.02)
    with serving({"absorbing": checkpoint}, request_timeout_s=0.2) as server:
        assert server.post("/sample", LONG | {"stream": False}).status_code == 504
        assert server.post("/sample", LONG | {"stream": False, "timeout_s": 1}).status_code == 422


def test_health_answers_at_once_while_the_engine_computes(tiny: Mapping[str, Checkpoint]) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.5)
    with serving({"absorbing": checkpoint}) as server, server.reading("/sample", LONG) as events:
        assert next(events).event == "start"
        with httpx2.Client() as client:
            client.get(server.url + "/health")
            calls, started = denoiser.calls, time.perf_counter()
            for _ in range(5):
                assert client.get(server.url + "/health").json() == {"status": "ok"}
            elapsed = time.perf_counter() - started
        assert elapsed < 0.25 and denoiser.calls <= calls + 1


def test_silence_is_broken_by_a_heartbeat(tiny: Mapping[str, Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.api.events, "HEARTBEAT_S", 0.05)
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.4)
    body = {"seq_len": 1, "num_inference_steps": 1}
    with serving({"absorbing": checkpoint}) as live_server:
        with httpx2.stream("POST", live_server.url + "/sample", json=body) as response:
            text = response.read().decode()
        assert text.count(": ping\n\n") >= 4
        assert text.index("event: start") < text.index(": ping") < text.index("event: done")
        assert [event.event for event in live_server.events("/sample", body)] == ["start", "state", "done"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_denoiser_that_raises_costs_one_answer_not_the_server(
    tiny: Mapping[str, Checkpoint], stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"])
    body = {"seq_len": 8, "num_inference_steps": 4, "stream": stream}
    caplog.set_level("CRITICAL", logger="server.work.engine")
    with serving({"absorbing": checkpoint}) as server:
        denoiser.failure = RuntimeError("the weights are on fire")
        if stream:
            error = json.loads(server.events("/sample", body)[-1].data)["error"]
        else:
            response = server.post("/sample", body)
            assert response.status_code == 500
            error = response.json()["error"]
        assert (error["type"], error["code"]) == ("internal", 500)
        assert "fire" not in error["message"]
        assert server.get("/health").status_code == 200
        assert server.post("/sample", body | {"stream": False}).status_code == 200


def test_a_fault_while_text_is_made_ends_the_stream_with_an_error(
    tiny: Mapping[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any, **named: Any) -> str:
        raise RuntimeError("no text today")

    monkeypatch.setattr(server.api.events, "ending", broken)
    caplog.set_level("CRITICAL", logger="server")
    checkpoint, _ = faked(tiny["absorbing"])
    body = {"seq_len": 8, "num_inference_steps": 4}
    with serving({"absorbing": checkpoint}) as live_server:
        assert live_server.events("/sample", body)[-1].event == "error"
        plain = live_server.post("/sample", body | {"stream": False}, headers={"X-Request-Id": "abc"})
        assert plain.status_code == 500 and plain.json()["error"]["type"] == "internal"
        assert plain.headers["x-request-id"] == "abc"


def test_a_dead_engine_is_unhealthy(
    tiny: Mapping[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", logger="server.work.engine")
    monkeypatch.setattr("server.lifecycle.TELL_S", 60.0)
    checkpoint, _ = faked(tiny["absorbing"])
    with serving({"absorbing": checkpoint}) as server:
        server.engine.stop()
        assert server.get("/health").status_code == 503
        assert server.get("/ready").status_code == 503
        assert server.post("/sample", {"seq_len": 4}).status_code == 503
