"""What the pages show is run: Python, curl, and our own programs, on a server and in folders that look like the demos', but
have tiny networks. What would take too long, or a machine of its own, is read by the program that it is for."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from openai import OpenAI

from benchmarks.__main__ import PARTS
from benchmarks.__main__ import make_parser as benchmarks_parser
from server.settings import read_settings
from tests.pages import PAGES, ROOT, blocks, commands, name, shell, spans
from token_diffusion.__main__ import main as token_diffusion
from token_diffusion_client import Client
from token_diffusion_client.__main__ import main as clients
from trainer.__main__ import parse as trainer

if TYPE_CHECKING:
    from tests.checkout import Workplace

pytest_plugins = ["tests.checkout"]

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CLIENT = tomllib.loads((ROOT / "clients" / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_python_runs(page: Path, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page one after the other, as in a notebook."""
    monkeypatch.chdir(workplace.folder)
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(workplace.here(code), page.name, "exec"), names)
        client = names.pop("client", None)  # which a reader leaves to the end of the program
        if isinstance(client, Client | OpenAI):
            client.close()


# A program -> what is tried with the words behind it.


def curl(words: Sequence[str], workplace: Workplace) -> None:
    options = ["--fail-with-body", "--silent", "--show-error", "--max-time", "30"]
    done = subprocess.run(["curl", *options, *words], cwd=workplace.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert '"error":{' not in done.stdout and (done.stdout or "DELETE" in words)


def python(words: Sequence[str], workplace: Workplace) -> None:
    assert words[0] == "-m", words
    module, arguments = words[1], words[2:]
    if module not in MODULES:
        assert importlib.util.find_spec(module) is not None, module
    elif not set(arguments) & {"--help", "…"}:
        MODULES[module](arguments, workplace)


def run_clients(words: Sequence[str], workplace: Workplace) -> None:
    quick = {"bench": ["--num_prompts=2", "--request_rate=inf"], "watch": ["--count=1"]}
    slow_motion = ["--delay_ms=0"] * words[0].startswith("sample")
    assert clients([*words, f"--url={workplace.server.url}", *quick.get(words[0], slow_motion)]) == 0


def run_samplers(words: Sequence[str], workplace: Workplace) -> None:
    assert token_diffusion(words) == 0


def accelerate(words: Sequence[str], workplace: Workplace) -> None:
    assert all((ROOT / word).is_file() for word in words if word.endswith(".yaml"))
    python(words[words.index("-m") :], workplace)


def elsewhere(words: Sequence[str], workplace: Workplace) -> None:
    """For a machine or a program that is not here."""
    assert all((ROOT / word).exists() for word in words if word.startswith("deploy/"))


def make(words: Sequence[str], workplace: Workplace | None = None) -> None:
    for word in words:
        variable, is_set, value = word.partition("=")
        if is_set:
            assert re.search(rf"^{variable} \??=", MAKEFILE, re.MULTILINE), word
            if variable == "ARGS" and words[0] == "serve":
                read_settings(shlex.split(value))
        else:
            assert word.startswith(".venv/.installed-") or re.search(rf"^{word}:", MAKEFILE, re.MULTILINE), word


def pip(words: Sequence[str], workplace: Workplace) -> None:
    assert words[0] == "install"
    for word in words[1:]:
        place, _, extras = word.partition("[")
        if place in (".", "./clients"):
            project = (PROJECT if place == "." else CLIENT)["project"]
            assert set(filter(None, extras.rstrip("]").split(","))) <= set(project["optional-dependencies"]), word


def docker(words: Sequence[str], workplace: Workplace) -> None:
    assert words[0] == "compose"
    files = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob("**/*compose*.yml"))
    for flag, value in pairwise(words):
        assert flag != "-f" or (ROOT / value).is_file(), value
        assert flag != "--profile" or f"profiles: [{value}" in files, value


PROGRAMS: dict[str, Callable[[Sequence[str], Workplace], None]] = {
    "curl": curl,
    "python": python,
    ".venv/bin/python": python,
    "token-diffusion-client": run_clients,
    "make": make,
    "pip": pip,
    "docker": docker,
    "accelerate": accelerate,
    **dict.fromkeys(("serve", "kubectl", "kill", "guidellm"), elsewhere),
}
MODULES: dict[str, Callable[[Sequence[str], Workplace], object]] = {
    "clients": run_clients,
    "token_diffusion": run_samplers,
    "trainer": lambda words, workplace: trainer(words[0], words[1:]),
    "server": lambda words, workplace: read_settings(words),
    "benchmarks": lambda words, workplace: benchmarks_parser().parse_args(words),
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_run(page: Path, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace.folder)
    for words in commands(page):
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        assert words[0] in PROGRAMS, f"nothing tries {words[0]}"
        PROGRAMS[words[0]]([workplace.here(word) for word in words[1:]], workplace)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_within_the_text_are_there(page: Path) -> None:
    for span in spans(page):
        if match := re.match(r"(?:\.venv/bin/)?python -m ([\w.]+)(?: ([a-z]+)\b)?", span):
            assert importlib.util.find_spec(match[1]) is not None, span
            assert match[1] != "benchmarks" or match[2] in {None, *PARTS}, span
        elif match := re.match(r"pytest (?:-m \w+ )?([\w./]+)", span):
            assert (ROOT / match[1]).exists(), span
        elif match := re.match(r"make ([\w.-]+)$", span):
            make([match[1]])


def test_settings_files_can_be_read() -> None:
    read = {"toml": tomllib.loads, "yaml": yaml.safe_load}
    found = [read[kind](code) for page in PAGES for kind in read for code in blocks(page, kind)]
    assert len(found) >= 2 and all(found)


def test_the_reader_of_the_shell_sees_what_a_shell_sees() -> None:
    code = 'A=1 make serve ARGS="--x y"   # said\n\ncurl -d \'{"a": 1}\' \\\n  url\npython -m clients --template "one\ntwo"\n'
    assert shell(code) == [
        ["A=1", "make", "serve", "ARGS=--x y"],
        ["curl", "-d", '{"a": 1}', "url"],
        ["python", "-m", "clients", "--template", "one\ntwo"],
    ]
