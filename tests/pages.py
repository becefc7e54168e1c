"""README and docs as tests read them: blocks of code, code within text, and commands of the shell as words."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "clients" / "README.md"]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"(?:^|\s+)#[^'\"\n]*$", re.MULTILINE)


def name(page: Path) -> str:
    """How a page is called from the root."""
    return page.relative_to(ROOT).as_posix()


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The code of `language`, block by block."""
    return [code for _, kind, code in FENCE.findall(text(page)) if kind == language]


def spans(page: Path) -> list[str]:
    """Code within the text."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text(page)))


def sections(page: Path) -> set[str]:
    """How links call its headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell(code: str) -> list[list[str]]:
    """The commands of a block, each as its words: variables set before it, its program, what is handed to that."""
    lexer = shlex.shlex(COMMENT.sub("", code.replace("\\\n", " ")), posix=True, punctuation_chars="\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if word.strip("\n"):
            found[-1].append(word)
        elif found[-1]:
            found.append([])
    return [words for words in found if words]


def commands(page: Path) -> list[list[str]]:
    """All commands in the page's blocks."""
    return [words for code in blocks(page, "bash") for words in shell(code)]
