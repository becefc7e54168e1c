"""A browser for all tests of the page, and pages that are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from benchmarks.page.chromium import launched
from tests.browser.watched import Open, Watched

WAIT_MS = 15_000
"""Longest wait for anything; nothing that works comes near it."""

SEEN = "if (origin !== 'null') localStorage.setItem('token-diffusion-seen', '1')"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    try:
        with launched() as browser:
            yield browser
    except FileNotFoundError as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Whatever must not happen on a page, and has, fails the test."""
    found = Watched()
    yield found
    assert found.offences == []


@pytest.fixture
def open_page(chromium: Browser, watched: Watched) -> Iterator[Open]:
    """A page at an address, in a context of its own; `prepare` is given the page before it goes there.

    Its visitor has been there before, unless `first`: nothing runs unasked.
    """
    contexts = []

    def opened(
        url: str, prepare: Callable[[Page], object] = lambda page: None, *, first: bool = False, **options: Any
    ) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        watched.context(context)
        if not first:
            context.add_init_script(SEEN)
        page = context.new_page()
        watched.page(page, url)
        prepare(page)
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
