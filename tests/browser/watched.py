"""What must never happen on a page, whatever is done on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request

Open = Callable[..., Page]
"""`open_page(url, **options of the context)`."""

WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  globalThis.told(`${event.violatedDirective} forbids ${event.blockedURI} ${event.sample}`);
});
"""


class Watched:
    """What must never happen on a page: scripts that fail, what the policy forbids, dialogs, requests to anybody else."""

    def __init__(self) -> None:
        self.offences: list[str] = []

    def context(self, context: BrowserContext) -> None:
        context.expose_function("told", lambda offence: self.offences.append(offence))
        context.add_init_script(WATCH)

    def page(self, page: Page, url: str) -> None:
        home = urlsplit(url).netloc

        def asked(request: Request) -> None:
            parts = urlsplit(request.url)
            if parts.scheme not in ("data", "blob") and parts.netloc != home:
                self.offences.append(f"asked for {request.url}")

        def said(message: ConsoleMessage) -> None:
            # Answers of 400 and more, and connections that end, are told there, too; those are no fault of the page.
            if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
                self.offences.append(f"console: {message.text}")

        def dialog(shown: Any) -> None:
            self.offences.append(f"dialog: {shown.message}")
            shown.dismiss()

        page.on("request", asked)
        page.on("console", said)
        page.on("dialog", dialog)
        page.on("pageerror", lambda error: self.offences.append(f"script: {error}"))

    def expect(self, page: Page, start: str) -> None:
        """Wait for an offence that a test means to see; what is told of it is forgotten then, but for a dialog."""
        for _ in range(100):
            if any(offence.startswith(start) for offence in self.offences):
                break
            page.wait_for_timeout(20)
        page.wait_for_timeout(100)  # the same is told twice, as an event and on the console
        assert any(offence.startswith(start) for offence in self.offences), self.offences
        self.offences = [offence for offence in self.offences if offence.startswith("dialog")]
