"""For everybody: nothing that axe-core finds, no mouse needed, phones, and whatever a sample says, it is text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.browser.player import Player, link
from tests.browser.watched import Open
from tests.live_server import LiveServer, faked, serving
from tests.tiny import SPECIAL_TOKENS, save_tiny
from token_diffusion.checkpoint import Checkpoint, load_checkpoint

pytest_plugins = ["tests.server_fixtures"]
pytestmark = pytest.mark.browser

BODY: dict[str, Any] = {"seq_len": 24, "num_inference_steps": 16, "seed": 5}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "</style><b>",
    "javascript:alert(1)",
    "&lt;b&gt;",
    "\u202eover\u2066",
    "\u05d0\u05d1\u05d2",
    "\x1b[31m",
    "\x00nul",
    "line\nend\ttab",
    "e\u0301\u0302\u0303",
    "\U0001f600",
    "${7*7}{{7*7}}",
]
"""Tokens of a vocabulary that nobody should trust."""


TYPE = """(box, units) => {
  box.value = units.map((unit) => String.fromCharCode(unit)).join("");
  box.dispatchEvent(new Event("input", { bubbles: true }));
}"""


def violations(page: Page) -> list[str]:
    """What axe-core finds, in a line each."""
    page.evaluate("() => document.getAnimations().forEach((animation) => animation.finish())")
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {[node['target'] for node in each['nodes'][:3]]}" for each in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_axe_core_finds_nothing(live: LiveServer, open_page: Open, scheme: str, size: str) -> None:
    page = open_page(live.url, color_scheme=scheme, **(PHONE if size == "phone" else {}))
    player = Player(page).begun()
    found = {"idle": violations(page)}
    player.field("Decoder").select_option("confidence")
    player.field("threshold")
    player.field("top_p")
    found["decoder and more"] = violations(page)
    page.get_by_label("Compare two runs").check()
    player.fill(**BODY)
    player.run()
    found["two runs, done"] = violations(page)
    page.get_by_label("Compare two runs").uncheck()
    page.get_by_label("Confidence").check()
    player.fill("/sample", "w1 w2", model="uniform", **BODY)
    player.run()
    player.press("Home", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight")
    found["midway"] = violations(page)
    page.get_by_label("Step map").check()
    player.end()
    found["step map"] = violations(page)
    page.get_by_label("Text", exact=True).check()
    player.drawn()
    found["text"] = violations(page)
    page.get_by_role("button", name="Code").click()
    found["code"] = violations(page)
    page.get_by_role("button", name="Close").click()
    player.field("temperature").fill("-1")
    player.start()
    player.wait("error")
    found["refused"] = violations(page)
    assert {state: lines for state, lines in found.items() if lines} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nor_in_the_question_for_a_key(tiny: Mapping[str, Checkpoint], open_page: Open, scheme: str) -> None:
    with serving(tiny, api_key="secret") as server:
        page = open_page(server.url, color_scheme=scheme)
        expect(page.get_by_role("dialog", name="API key")).to_be_visible()
        assert violations(page) == []


def test_the_theme_can_be_chosen(live: LiveServer, open_page: Open) -> None:
    page = open_page(live.url, color_scheme="light")
    Player(page).begun()
    colour = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="Theme").click()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    dark = page.evaluate(colour)
    assert dark != light
    page.reload()
    assert page.evaluate(colour) == dark
    assert violations(page) == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(live: LiveServer, open_page: Open, width: int) -> None:
    page = open_page(live.url, **PHONE | {"viewport": {"width": width, "height": 700}})
    player = Player(page).begun()
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0
    page.get_by_label("Compare two runs").check()
    player.fill(prompt="w1 " + "x" * 300, num_samples=2, **BODY | {"seq_len": 64})
    player.run()
    assert page.evaluate(wide) <= 0
    page.get_by_label("Text", exact=True).check()
    player.drawn()
    assert page.evaluate(wide) <= 0
    page.get_by_role("button", name="Code").click()
    assert page.evaluate(wide) <= 0


def tab_to(page: Page, name: str) -> None:
    """Tab until what has this name has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate("""() => {
          const { activeElement: element } = document;
          const label = element.labels?.[0]?.textContent ?? "";
          return [element.getAttribute("aria-label") ?? "", label.trim(), element.textContent.trim()];
        }""")
        if name in found:
            outline = page.evaluate("""() => {
              const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(document.activeElement);
              return (outlineStyle !== "none" && parseFloat(outlineWidth) > 0) || boxShadow !== "none";
            }""")
            hidden = page.evaluate("() => document.activeElement.closest('.segments') !== null")
            assert outline or hidden, f"{name} has the focus and does not show it"
            return
    raise AssertionError(f"nothing named {name} can be reached")


def test_no_mouse_is_needed(live: LiveServer, open_page: Open) -> None:
    page = open_page(live.url)
    player = Player(page).begun()
    tab_to(page, "Prompt")
    page.keyboard.type("w1 w2")
    tab_to(page, "seq_len")
    page.keyboard.type("64")  # a busy server merges states: of so many some are left to go through
    tab_to(page, "num_inference_steps")
    page.keyboard.type("64")
    tab_to(page, "Run")
    page.keyboard.press("Enter")
    player.wait("done")
    announcer = page.locator("#announcer")
    expect(announcer).to_have_text("Done.")
    tab_to(page, "Position")
    page.keyboard.press("Home")
    player.drawn()
    assert player.tick == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    player.drawn()
    assert player.tick == 2
    tab_to(page, "Code")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate("() => document.activeElement.id") == "code"


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A checkpoint whose every token is an attack, under a name that is one."""
    words = [*SPECIAL_TOKENS, *EVIL]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special: dict[str, Any] = dict(zip(names, SPECIAL_TOKENS, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    folder = save_tiny(tmp_path_factory.mktemp("evil") / "x", "absorbing", tokenizer=fast)
    name = "<img src=x onerror=alert(1)>"
    checkpoint, _ = faked(load_checkpoint(folder, name=name))  # all tokens equally probable
    with serving({name: checkpoint}) as server:
        yield server


def test_whatever_a_sample_says_is_text(evil: LiveServer, open_page: Open, tmp_path: Path) -> None:
    """That nothing is executed, and nothing forbidden was tried, is what every page here is watched for."""
    body = {
        "prompt": "javascript:alert(1) &lt;b&gt; \u05d0\u05d1\u05d2",
        "seq_len": 90,
        "num_inference_steps": 8,
        "seed": 2,
    }
    page = open_page(evil.url + link("/sample", body))
    player = Player(page).begun()
    before = page.evaluate("() => document.querySelectorAll('script, img, b, style').length")
    for view in ("Text", "Cells"):
        page.get_by_label(view, exact=True).check()
        player.run()
    shown = page.evaluate("() => document.querySelectorAll('script, img, b, style').length")
    assert shown == before
    text = "".join(player.labels())
    for attack in (
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "&lt;b&gt;",
        "${7*7}{{7*7}}",
        "\U0001f600",
    ):
        assert attack in text, attack
    # What would turn the text around it, or cannot be seen, is shown by name.
    assert not {"\u202e", "\u2066", "\x1b", "\x00", "\n"} & {*text}
    for cell in player.grid().locator("span").all()[:10]:
        cell.hover()
    ((start, *_, end),) = player.saved()
    assert start[0] == "start" and any("<script>" in sample["text"] for sample in end[1]["samples"])
    with page.expect_download() as download:
        page.get_by_role("button", name="Save animation").click()
    drawing = download.value.path().read_text(encoding="utf-8")
    assert "<script" not in drawing and "&lt;script&gt;" in drawing
    page.get_by_role("button", name="Code").click()
    for language in ("curl", "Python", "JSON"):
        page.get_by_label(language, exact=True).check()
    assert json.loads(page.get_by_label("Code", exact=True).input_value())["prompt"] == body["prompt"]


@pytest.mark.parametrize("prompt", ["w1 \ud800 w2", "\x00\x1b", "<b>" * 2000, "\u202e" * 50, "w1 " * 5000])
def test_a_prompt_that_cannot_be_used_is_refused_beside_it(live: LiveServer, open_page: Open, prompt: str) -> None:
    player = Player(open_page(live.url)).begun()
    player.fill(**BODY)
    units = prompt.encode("utf-16-le", "surrogatepass")  # a lone surrogate cannot be typed by `fill`
    player.prompt.evaluate(TYPE, [units[index] + 256 * units[index + 1] for index in range(0, len(units), 2)])
    player.start()
    player.wait("done", "error")
    if player.page.evaluate("() => document.documentElement.dataset.state") == "error":
        said = player.page.locator("#prompt-problem, .lane .banner, #form-problem").filter(visible=True)
        assert said.first.inner_text().strip()
