"""The command line: what it sends, prints and exits with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.scripted_server import (
    EVENTS,
    Reply,
    Scripted,
    answer,
    closed_port,
    envelope,
    json_sse,
    scripted,
    sse,
)
from tests.clients.terminals import Terminal
from token_diffusion_client.__main__ import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TD_URL", raising=False)
    monkeypatch.delenv("TD_API_KEY", raising=False)


def run(server: Scripted, *arguments: str) -> int:
    command, *rest = arguments
    return main([command, "--url", server.url, *rest], prog="python -m clients")


def test_final_texts_go_to_a_pipe(capsys: Capture) -> None:
    with scripted(sample=Reply([sse()])) as server:
        assert run(server, "sample") == 0
    assert capsys.readouterr() == ("the dög sat\nüber\n", "")
    assert server.requests[0].body == {"stream": True, "on_disconnect": "keep"}


def test_a_terminal_gets_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    pieces = [f" {number}" for number in range(20)]
    vocabulary = {"model": "demo", "vocab_size": 20, "mask_token_id": 0, "special_token_ids": [0], "pieces": pieces}
    with scripted(sample=Reply([sse()]), models_demo_tokens=answer(vocabulary)) as server:
        assert run(server, "sample") == 0
    assert server.requests[0].body == {"stream": True, "on_disconnect": "keep"}
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "0│  5 11░░" in plain and "0│  5 16 13 17" in plain
    assert plain.splitlines()[-2:] == [
        "1│ über",
        "7 tokens · 3 forward passes (5 steps without one) · 0.01 s · seed 7 · length",
    ]


def test_quiet_is_the_texts_alone_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    with scripted(sample=Reply([sse()])) as server:
        assert run(server, "sample", "--quiet") == 0
    assert out.getvalue() == "the dög sat\nüber\n"


def test_a_terminal_without_rich_gets_the_texts_and_a_hint(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with scripted(sample=Reply([sse()])) as server:
        assert run(server, "sample") == 0
    assert out.getvalue() == "the dög sat\nüber\n"
    assert capsys.readouterr().err == "to see it drawn: pip install 'token-diffusion-client[terminal]'\n"


def test_what_is_no_character_does_not_end_it(capsys: Capture) -> None:
    samples = [{"text": "a\ud800\u202eb", "tokens": [1]}]
    with scripted(sample=Reply([json_sse("done", {**EVENTS[-1][1], "samples": samples})])) as server:
        assert run(server, "sample") == 0
    assert capsys.readouterr().out == "a\\ud800\u202eb\n"


def test_json_prints_each_event_as_a_line(capsys: Capture) -> None:
    with scripted(sample=Reply([sse()])) as server:
        assert run(server, "sample", "--json", "--delay_ms", "1") == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event.pop("event") for event in printed] == [name for name, _ in EVENTS]
    for event, (_, sent) in zip(printed, EVENTS, strict=True):
        assert {name: value for name, value in event.items() if value is not None} == sent


def test_flags_are_the_names_on_the_wire() -> None:
    body = {
        "prompt": "the",
        "prompt_ids": [1, 2],
        "template": "a [MASK]",
        "template_ids": [3],
        "min_p": 0.1,
        "num_samples": 2,
        "seq_len": 4,
        "num_inference_steps": 8,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "label": 2,
        "guidance_scale": 1.5,
        "sampler": "confidence",
        "preset": "llada",
        "threshold": 0.9,
        "quota": "even",
        "remask": "loop",
        "seed": 1,
        "model": "demo",
        "block_size": 2,
        "stream_every": 5,
        "keyframe_every": 6,
        "timeout_s": 1.5,
    }
    flags = [text for name, value in body.items() for text in (f"--{name}", re.sub(r"^\[(.*)\]$", r"\1", str(value)))]
    with scripted(sample_block=Reply([sse()])) as server:
        switches = ("--include_text", "--logprobs", "--suppress_end", "--greedy_tail")
        assert run(server, "sample-block", *switches, *flags, "--stop", ".", "--stop", "!") == 0
    assert server.requests[0].path == "/sample/block"
    assert server.requests[0].body == {
        **body,
        "stop": [".", "!"],
        **{name.removeprefix("--"): True for name in switches},
        "stream": True,
        "on_disconnect": "keep",
    }


def test_who_looks_at_confidence_asks_for_it(capsys: Capture) -> None:
    with scripted(sample=Reply([sse()])) as server:
        assert run(server, "sample", "--color", "confidence") == 0
    assert server.requests[0].body == {"logprobs": True, "stream": True, "on_disconnect": "keep"}
    with pytest.raises(SystemExit) as stopped:
        main(["sample", "--color", "red"])
    assert stopped.value.code == 2 and "argument --color: invalid choice: 'red'" in capsys.readouterr().err


def test_a_conversation_is_json_or_its_file(capsys: Capture, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "the cat — 猫"}]
    (tmp_path / "talk.json").write_text(json.dumps(messages), encoding="utf-8")
    for given in (json.dumps(messages, ensure_ascii=False), str(tmp_path / "talk.json")):
        with scripted(sample=Reply([sse()])) as server:
            assert run(server, "sample", "--messages", given) == 0
        assert server.requests[0].body["messages"] == messages
    for given, why in (("[{", "Expecting"), ("no such", "No such file"), ('{"a": 1}', "must be a list of messages")):
        with scripted(sample=Reply([sse()])) as server, pytest.raises(SystemExit) as exit:
            run(server, "sample", "--messages", given)
        assert exit.value.code == 2 and why in capsys.readouterr().err and not server.requests


def test_hybrid_and_the_continuous_limit(capsys: Capture) -> None:
    with scripted(sample_hybrid=Reply([sse()])) as server:
        assert run(server, "sample-hybrid", "--num_inference_steps", "none") == 0
    assert server.requests[0].body == {"num_inference_steps": None, "stream": True, "on_disconnect": "keep"}


def test_url_and_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    with scripted(sample=Reply([sse()])) as server:
        monkeypatch.setenv("TD_URL", server.url)
        monkeypatch.setenv("TD_API_KEY", "s3cret")
        assert main(["sample"]) == 0
    assert server.requests[0].authorization == "Bearer s3cret"


@pytest.mark.parametrize(("status", "code"), [(422, 2), (429, 1), (503, 1), (500, 1)])
def test_an_error_of_the_server_is_one_line(status: int, code: int, capsys: Capture) -> None:
    with scripted(sample=answer(envelope(status), status)) as server:
        assert run(server, "sample", "--top_p", "1.5", "--max_retries", "0") == code
    assert capsys.readouterr() == ("", "python -m clients: error: top_p must be in (0, 1], got 1.5\n")


def test_an_error_event_is_one_line(capsys: Capture) -> None:
    error = {"error": {"message": "the server is stopping", "type": "shutdown", "param": None, "code": 503}}
    with scripted(sample=Reply([sse([*EVENTS[:2], ("error", error)])])) as server:
        assert run(server, "sample") == 1
    assert capsys.readouterr() == ("", "python -m clients: error: the server is stopping\n")


def test_a_broken_stream_is_one_line(capsys: Capture) -> None:
    with scripted(sample=Reply([sse(EVENTS[:2])], "abort")) as server:
        assert run(server, "sample") == 1
    assert capsys.readouterr().err == (
        "python -m clients: error: the stream ended after a state event, without done or error\n"
    )


def test_an_answer_that_is_no_stream_is_one_line(capsys: Capture) -> None:
    with scripted(sample=Reply([b"hello"], content_type="text/plain")) as server:
        assert run(server, "sample") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"python -m clients: error: {server.url}: Expected response with content type")
    assert error.count("\n") == 1


def test_nobody_there_is_one_line(capsys: Capture) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    assert main(["sample", "--url", url], prog="python -m clients") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"python -m clients: error: cannot connect to {url}: ")
    assert error.endswith("; is the server running?\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://127.0.0.1:port"])
def test_a_url_that_is_none_is_one_line(url: str, capsys: Capture) -> None:
    assert main(["sample", "--url", url], prog="python -m clients") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"python -m clients: error: url must be http:// or https://, got '{url}': ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--num_samples", "two"], "argument --num_samples: invalid int value: 'two'"),
        (
            ["sample", "--num_inference_steps", "x"],
            "argument --num_inference_steps: must be an integer or none, got 'x'",
        ),
        (["sample", "--block_size", "2"], "unrecognized arguments: --block_size 2"),
        (["sample", "--num", "2"], "unrecognized arguments: --num 2"),
        ([], "required: command"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], message: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def process(server: Scripted, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "clients", "sample", "--url", server.url, *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


def test_a_reader_that_leaves_is_no_traceback() -> None:
    with scripted(sample=Reply([sse()])) as server, process(server, "--json", "--delay_ms", "30") as client:
        assert client.stdout is not None
        client.stdout.readline()
        client.stdout.close()
        assert client.stderr is not None
        assert client.stderr.read() == ""
        assert client.wait(60) == 1
