from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin

import pytest

from server.api.docs.page import FILES
from tests.live_server import LiveServer

pytest_plugins = ["tests.server_fixtures"]

HERE = Path(__file__).parents[4] / "server" / "api" / "docs"


def test_everything_the_page_refers_to_is_served_from_here(live: LiveServer) -> None:
    page = live.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    for link in links:
        if not link.startswith("data:"):
            assert live.get(urljoin("/docs", link)).status_code == 200, link
    assert {urljoin("/docs", link) for link in links} >= FILES.keys() - {"/docs"}


@pytest.mark.parametrize("path", FILES)
def test_a_browser_is_kept_from_asking_anybody_else(live: LiveServer, path: str) -> None:
    """Whatever is in the bundle of Swagger UI: it may load from this server alone, and nothing inline."""
    answer = live.get(path)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    sources = {source for allowed in policy.values() for source in allowed.split()}
    assert sources == {"'none'", "'self'", "data:"}
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("file", sorted(HERE.glob("docs.*")), ids=lambda file: file.name)
def test_our_own_files_name_no_host_and_have_nothing_inline(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"https?:|[\"'(]//", text)
    assert not re.search(r"<script>|<style|\son\w+=|style=", text)
