"""Chromium as it is installed, without a window, with an empty profile.

python -m benchmarks.page.chromium    which one that is; exit code 1 and one line where there is none
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

VARIABLE = "CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def executable() -> str:
    """The program that `CHROMIUM` names, or else the first of `NAMES` on the path.

    Raises:
        FileNotFoundError: there is none; says in one line what to do.
    """
    given = os.environ.get(VARIABLE)
    for name in [given] if given else NAMES:
        if found := shutil.which(name):
            return found
    missing = f"no program {given!r}" if given else f"none of {', '.join(NAMES)} on the path"
    raise FileNotFoundError(f"Chromium is needed: {missing}; install it, or name one with {VARIABLE}=PROGRAM")


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser of one's own. Raises FileNotFoundError where there is no Chromium."""
    program = executable()
    from playwright.sync_api import sync_playwright  # so that all other parts do without it

    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses to be root's.
        browser = playwright.chromium.launch(
            executable_path=program, args=ARGUMENTS, chromium_sandbox=os.geteuid() != 0
        )
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__":
    try:
        print(executable())
    except FileNotFoundError as error:
        sys.exit(str(error))
