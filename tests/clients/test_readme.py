"""The page of the distribution does what it shows."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from tests.live_server import LiveServer
from token_diffusion_client import Client
from token_diffusion_client.__main__ import build_parser

pytest_plugins = ["tests.server_fixtures"]

PAGE = (Path(__file__).parents[2] / "clients" / "README.md").read_text(encoding="utf-8")

SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_its_python_runs(live: LiveServer, snippet: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = snippet.replace("http://127.0.0.1:8000", live.url).replace("Once upon a time", "w3")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    if isinstance(client := names.get("client"), Client):
        client.close()
    printed = capsys.readouterr().out
    assert "done" in names or printed
    assert "error" not in printed.lower()


def test_its_commands_can_be_read() -> None:
    parser = build_parser()
    lines = re.findall(r"^token-diffusion-client (.*?)(?:\s+#.*)?$", PAGE, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        words = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', line)]
        assert isinstance(parser.parse_args(words), argparse.Namespace)


def test_it_names_every_method() -> None:
    methods = {name for name in dir(Client) if not name.startswith("_")} - {"close"}
    table = PAGE.partition("| method |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= methods
