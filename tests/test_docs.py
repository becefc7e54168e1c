"""What the pages name is there: links, files, flags; and what a user can set is named on its page."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from benchmarks.decoders.part import PICTURE as MEASURED
from benchmarks.page.pictures import FOLDER, MAX_BYTES, PICTURES
from server.api.openai.requests import ChatRequest, CompletionRequest
from server.api.openai.values import Only
from server.settings import Settings
from tests.live_server import LiveServer
from tests.pages import PAGES, ROOT, commands, name, sections, spans, text
from token_diffusion.__main__ import build_parser
from token_diffusion.__main__ import main as samplers_shell
from token_diffusion_client.__main__ import build_parser as clients_parser
from trainer.__main__ import COMMANDS

pytest_plugins = ["tests.server_fixtures"]

FOLDERS = ("token_diffusion", "server", "trainer", "clients", "deploy", "benchmarks", "tests")
SERVING, API, SAMPLING = (ROOT / "docs" / f"{page}.md" for page in ("serving", "api", "sampling"))
TABLE = "python -m token_diffusion samplers --markdown"
OPENAIS = re.compile(
    r"Chat|Chunk|Completion|Delta|Message|Text(Choice|Part|Logprobs)|TokenLogprob|.*openai.*|.*Validation"
)


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


def our_commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each command of ours in the page's shell blocks, with the words that follow it."""
    for words in commands(page):
        if "-m" in words and words[(at := words.index("-m")) + 1] in ("trainer", "token_diffusion", "clients"):
            yield " ".join(words[at + 1 : at + 3]), words[at + 3 :]
        elif words[0] == "token-diffusion-client":
            yield f"clients {words[1]}", words[2:]
        elif "server" in words[:3]:
            yield "server", words
        elif words[:2] == ["make", "serve"]:
            yield "server", " ".join(words).partition("ARGS=")[2].split()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_files_are_there(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text(page)) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    files = {file.relative_to(ROOT).as_posix() for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")}
    named = re.findall(r"`([\w.][\w./-]*/[\w.-]+\.(?:py|sh|yaml|js))`", text(page))
    assert [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_sections(page: Path) -> None:
    for place, section in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text(page)):
        if "://" not in place:
            assert section in sections(page.parent / place if place else page), f"{place}#{section}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_have_the_flags_that_are_shown(page: Path) -> None:
    for command, words in our_commands(page):
        assert command in FLAGS, f"python -m {command}"
        flags = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= FLAGS[command], f"python -m {command}"


def test_the_scan_sees_the_commands() -> None:
    seen = {command for page in PAGES for command, _ in our_commands(page)}
    assert {"server", "trainer mdlm", "trainer tokenizer", "token_diffusion sample", "clients sample"} <= seen


def test_every_picture_is_of_the_one_command() -> None:
    """`make pictures` writes what is in `docs/pictures` but what is measured; all of it is shown, and nothing else is."""
    shown = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in re.findall(r"(?:src|srcset)=\"([^\"]+)\"|!\[[^\]]*\]\(([^)\s]+)\)", text(page))
        for link in filter(None, link)
    }
    there = {FOLDER / picture for picture in PICTURES} | {FOLDER / MEASURED.name} & shown
    assert shown == there == set(FOLDER.iterdir())
    assert max(picture.stat().st_size for picture in there) <= MAX_BYTES


def test_the_readme_is_short_and_begins_with_the_animation() -> None:
    readme = text(ROOT / "README.md")
    assert len(readme.split()) <= 1400
    assert "denoising.svg" in readme.split("\n\n")[1]


@pytest.mark.parametrize("setting", Settings.model_fields)
def test_settings_are_on_the_page_of_the_server(setting: str) -> None:
    assert f"`{setting}`" in text(SERVING)


def test_the_page_of_the_api_has_every_endpoint_field_and_error(live: LiveServer) -> None:
    """As the server itself describes them; but for OpenAI's own answers, and what is refused unless it asks for nothing."""
    document = live.get("/openapi.json").json()
    said = " ".join([*spans(API), *spans(SERVING), *re.findall(r"`([^`\n]+)`", samplers_told())])
    assert [path for path in document["paths"] if path not in said] == []
    words = set(re.findall(r"\w+", said))
    schemas = document["components"]["schemas"]
    ours = {schema: set(has.get("properties", ())) for schema, has in schemas.items() if not OPENAIS.match(schema)}
    ours["CompletionRequest"] = asked(CompletionRequest)
    ours["ChatRequest"] = asked(ChatRequest)
    assert {schema: missing for schema, fields in ours.items() if (missing := fields - words)} == {}
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "server").rglob("*.py")]
    kinds = {kind for source in sources for kind in re.findall(r'APIError\(\s*[\w.]+,\s*"(\w+)"', source)}
    assert len(kinds) > 5 and kinds - words == set()


def samplers_told() -> str:
    """The tables of the samplers, with which fields and flags need no page of their own."""
    return text(SAMPLING).partition(f"<!-- {TABLE} -->\n")[2].partition("<!-- end of samplers -->")[0]


def test_the_samplers_on_the_page_are_those_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """After a change: `python -m token_diffusion samplers --markdown`, between the two marks of docs/sampling.md."""
    assert samplers_shell(TABLE.split()[3:]) == 0
    assert samplers_told() == capsys.readouterr().out


def asked(request: type[BaseModel]) -> set[str]:
    """The fields with which something can be asked for."""
    return {
        field
        for field, info in request.model_fields.items()
        if not any(isinstance(each, Only) for each in info.metadata)
    }


def test_every_file_of_the_science_is_in_the_tree_of_the_house() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    science = tree.partition("\nserver/")[0]
    first_words = {line.split()[0].rstrip("/") for line in science.splitlines() if line.strip()}
    house = ROOT / "token_diffusion"
    rooms = {path.stem for folder in (house, *house.iterdir()) if folder.is_dir() for path in folder.iterdir()}
    assert rooms - {"__init__", "__pycache__"} <= first_words
