"""What the pages name is there: links, files, flags; and what a user can set is named on its page."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.api.protocol.requests import BlockSampleRequest
from server.settings import Settings
from token_diffusion.__main__ import build_parser
from token_diffusion_client.__main__ import build_parser as clients_parser
from trainer.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("token_diffusion", "server", "trainer", "clients", "deploy", "benchmarks", "tests")
SERVING = ROOT / "docs" / "serving.md"


def flags_of_commands(module: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, set[str]]]:
    """Each subcommand as it is typed, with its flags."""
    for action in parser._actions:
        for command, sub in (action.choices or {}).items() if isinstance(action, argparse._SubParsersAction) else ():
            yield f"{module} {command}", {option[2:] for option in sub._option_string_actions if option[:2] == "--"}


FLAGS = {
    **{f"trainer {command}": set(settings.model_fields) | {"help"} for command, settings in COMMANDS.items()},
    **dict(flags_of_commands("token_diffusion", build_parser())),
    **dict(flags_of_commands("clients", clients_parser())),
    "server": set(Settings.model_fields) | {"help"},
}


def commands(page: str) -> Iterator[tuple[str, str]]:
    """Each command of ours in the page's shell blocks, with what follows it up to a comment."""
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.search(r"-m (server|(?:trainer|token_diffusion|clients) [a-z-]+)\b([^#]*)", line):
                yield match[1], match[2]
            if match := re.search(r"make serve .*ARGS=\"([^\"]*)\"", line):
                yield "server", match[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_files_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    files = {file.relative_to(ROOT).as_posix() for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")}
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|sh|yaml))`", text)
    assert [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_have_the_flags_that_are_shown(page: Path) -> None:
    for command, rest in commands(page.read_text(encoding="utf-8")):
        assert command in FLAGS, f"python -m {command}"
        assert set(re.findall(r"--(\w+)", rest)) <= FLAGS[command], f"python -m {command}{rest}"


def test_the_scan_sees_the_commands() -> None:
    seen = {command for page in PAGES for command, _ in commands(page.read_text(encoding="utf-8"))}
    assert {"server", "trainer mdlm", "trainer tokenizer", "token_diffusion sample", "clients sample"} <= seen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_can_be_read(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        ast.parse(block)


@pytest.mark.parametrize("name", [*BlockSampleRequest.model_fields, *Settings.model_fields])
def test_fields_and_settings_are_on_the_page_of_the_server(name: str) -> None:
    assert f"`{name}`" in SERVING.read_text(encoding="utf-8")


def test_every_file_of_the_science_is_in_the_tree_of_the_house() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    science = tree.partition("\nserver/")[0]
    first_words = {line.split()[0].rstrip("/") for line in science.splitlines() if line.strip()}
    house = ROOT / "token_diffusion"
    rooms = {path.stem for folder in (house, *house.iterdir()) if folder.is_dir() for path in folder.iterdir()}
    assert rooms - {"__init__", "__pycache__"} <= first_words
