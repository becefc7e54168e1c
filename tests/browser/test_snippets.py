"""The JavaScript on the page of the API runs, in a browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.browser.watched import Open
from tests.pages import ROOT, blocks

if TYPE_CHECKING:
    from tests.checkout import Workplace

pytest_plugins = ["tests.checkout"]
pytestmark = pytest.mark.browser

IMPORT = re.compile(r'^import (\{[^}]*\}) from ("[^"]+");.*$', re.MULTILINE)


def test_javascript_runs(workplace: Workplace, open_page: Open) -> None:
    page = open_page(workplace.server.url)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    snippets = blocks(ROOT / "docs" / "api.md", "js")
    for code in snippets:
        code = IMPORT.sub(r"const \1 = await import(\2);", workplace.here(code))
        page.evaluate(f"async () => {{ {code}\n }}")
    assert snippets and any(text.startswith("done") for text in said) and any(text.startswith("[") for text in said)
