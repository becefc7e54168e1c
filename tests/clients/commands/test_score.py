"""Scores on the command line: for people, for pipes, for machines."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from tests.clients.scripted_server import answer, scripted
from tests.clients.terminals import Terminal
from tests.clients.test_endpoints import IMPOSSIBLE, SCORE, SCORES
from token_diffusion_client.__main__ import main

Capture = pytest.CaptureFixture[str]


def test_a_pipe_gets_a_line_a_text(capsys: Capture) -> None:
    with scripted(score=answer(SCORES)) as server:
        flags = ["--prefix", "x", "--num_times", "16", "--seed", "3"]
        assert main(["score", "--url", server.url, "a\tb\x1b[2J", "c", *flags]) == 0
    assert server.requests[0].body == {"texts": ["a\tb\x1b[2J", "c"], "prefix": "x", "num_times": 16, "seed": 3}
    assert capsys.readouterr().out.splitlines() == [
        "nats\tnats_error\tbits_per_token\tnum_tokens\ttext",
        "6.0000\t0.5000\t4.3500\t2\ta␉b␛[2J",
        "5.0000\t\t4.3500\t2\tc",
    ]


def test_quiet_is_the_numbers_alone_and_json_all(capsys: Capture) -> None:
    with scripted(score=answer(SCORES)) as server:
        assert main(["score", "--url", server.url, "--quiet", "a", "c"]) == 0
        assert capsys.readouterr().out == "6.0000\n5.0000\n"
        assert main(["score", "--url", server.url, "--json", "a", "c"]) == 0
    assert json.loads(capsys.readouterr().out) == SCORES


def test_a_terminal_gets_them_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    with scripted(score=answer(SCORES)) as server:
        assert main(["score", "--url", server.url, "worse [red]\x07", "better"]) == 0
    first, second = [line for line in out.getvalue().splitlines() if "4.350" in line]
    assert first.split()[:2] == ["1", "5.00"] and first.rstrip().endswith("better")
    assert second.split()[:3] == ["2", "6.00", "0.50"] and second.rstrip().endswith("worse [red]␇")


def test_where_it_is_narrow_the_texts_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    with scripted(score=answer(SCORES)) as server:
        assert main(["score", "--url", server.url, "worse " + "x" * 80, "two words " * 9]) == 0
    head, first, second, *_ = [line.rstrip() for line in out.getvalue().splitlines()]
    assert re.sub(r"\x1b\[\d*m", "", head).split() == ["rank", "nats", "±", "bits/token", "tokens", "text"]
    assert first.split()[:4] == ["1", "5.00", "?", "4.350"] and first.endswith("…")
    assert second.split()[:4] == ["2", "6.00", "0.50", "4.350"] and second.endswith("…") and len(second) <= 40


def test_texts_come_from_a_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("one\r\n\n二つ目\n", encoding="utf-8")
    with scripted(score=answer(SCORES)) as server:
        assert main(["score", "--url", server.url, "--quiet", "--file", str(file)]) == 0
        monkeypatch.setattr(sys, "stdin", io.StringIO("from\nstdin\n"))
        assert main(["score", "--url", server.url, "--quiet"]) == 0
    assert [request.body["texts"] for request in server.requests] == [["one", "二つ目"], ["from", "stdin"]]


def test_no_probability_is_infinite(capsys: Capture) -> None:
    unlikely = SCORES | {"scores": [SCORE | IMPOSSIBLE], "ranking": [0]}
    with scripted(score=answer(unlikely)) as server:
        assert main(["score", "--url", server.url, "a"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "inf\t\tinf\t2\ta"


@pytest.mark.parametrize(("content", "message"), [(b"\n", "must have a line of text"), (b"\xff\xfe", "must be UTF-8")])
def test_a_file_without_text(tmp_path: Path, capsys: Capture, content: bytes, message: str) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    assert main(["score", "--url", "http://127.0.0.1:1", "--file", str(file)], prog="td") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"td: error: file {message}, got ") and error.count("\n") == 1
