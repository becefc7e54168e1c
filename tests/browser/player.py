"""The player as its users have it: by the names that are read to them, and by what its cells show."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Locator, Page, expect

from tests.live_server import LiveServer

STATE = "() => document.documentElement.dataset.state"
LABELS = """(grid) => [...grid.children].map((cell) => cell.textContent.replace(/^ /, ""))"""
CLASSES = """(grid) => [...grid.children].map((cell) => [...cell.classList])"""


def link(endpoint: str, body: dict[str, Any]) -> str:
    """The fragment that fills the form."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
    return "#" + urlencode({"endpoint": endpoint} | texts)


def pieces(server: LiveServer, model: str) -> list[str]:
    """What the cells of a model's tokens show, without the space in front."""
    told = server.get(f"/models/{model}/tokens")
    assert told.status_code == 200, told.text
    return [piece.removeprefix(" ") for piece in told.json()["pieces"]]


class Player:
    """A page that has begun."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.run_button = page.locator("#run")
        self.prompt = page.get_by_label("Prompt", exact=True)
        self.position = page.get_by_label("Position")

    def begun(self) -> Player:
        """Once the form is there, and what it offers."""
        expect(self.run_button).to_be_enabled()
        expect(self.page.get_by_role("group", name="Examples").get_by_role("button").first).to_be_visible()
        return self

    def field(self, name: str) -> Locator:
        """A control of the form; its fold is opened for one in a fold."""
        found = self.page.get_by_label(name, exact=True)
        fold = found.locator("xpath=ancestor::details")
        if fold.count() > 0 and not fold.evaluate("(fold) => fold.open"):
            fold.locator("summary").click()
        return found

    def fill(self, endpoint: str = "/sample", prompt: str = "", **fields: object) -> None:
        self.field("Endpoint").select_option(endpoint)
        if model := fields.pop("model", None):
            self.field("Model").select_option(str(model))
        self.prompt.fill(prompt)
        for name, value in fields.items():
            self.field(name).fill(str(value))

    def run(self) -> None:
        """Run what the form asks, to its end, and show that."""
        self.start()
        self.wait("done")
        self.end()

    def start(self) -> None:
        expect(self.run_button).to_have_text("Run")
        self.run_button.click()

    def wait(self, *states: str) -> None:
        """Until the page is in one of the states: idle, running, done, error."""
        self.page.wait_for_function(
            "(states) => states.includes(document.documentElement.dataset.state)", arg=list(states)
        )

    def end(self) -> None:
        """Show the last state."""
        self.press("End")

    def press(self, *keys: str) -> None:
        """Keys that are nobody's but the page's; afterwards it is drawn."""
        self.page.evaluate("() => document.activeElement?.blur()")
        for key in keys:
            self.page.keyboard.press(key)
        self.drawn()

    def drawn(self) -> None:
        self.page.evaluate("() => new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)))")

    def grid(self, sample: int = 0, lane: int = 0) -> Locator:
        return self.page.locator(".lane").nth(lane).locator(f"[data-sample='{sample}']")

    def labels(self, sample: int = 0, lane: int = 0) -> list[str]:
        """What each cell shows, without the space in front that it has in flowing text; a mask shows nothing."""
        found: list[str] = self.grid(sample, lane).evaluate(LABELS)
        return found

    def kinds(self, sample: int = 0, lane: int = 0) -> list[set[str]]:
        """The classes of each cell: mask, noise, fixed or set, and how it is coloured."""
        return [set(names) for names in self.grid(sample, lane).evaluate(CLASSES)]

    def spoken(self, sample: int = 0, lane: int = 0) -> str:
        """The sample's text for who does not see its cells."""
        return self.page.locator(".lane").nth(lane).locator("figure").nth(sample).locator("p").inner_text()

    def saved(self) -> list[list[tuple[str, Any]]]:
        """The events of each run, as the page saves them: those that it was told, of which a busy server merges some."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name="Save run").click()
        archive = json.loads(download.value.path().read_text(encoding="utf-8"))
        return [[(event["event"], event["data"]) for event in run["events"]] for run in archive["runs"]]

    @property
    def tick(self) -> int:
        return int(self.position.input_value())

    @property
    def last_tick(self) -> int:
        return int(self.position.get_attribute("max") or 0)
