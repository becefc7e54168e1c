"""The pictures of README and docs, from the real thing: the demo checkpoints behind the server, the player in Chromium.

    python -m benchmarks.page.pictures [NAME ...]    all of them, or those named, into docs/pictures/

Each is of a run with a seed, so that it is the same text every time.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from PIL import Image

from .. import ROOT
from ..models import DEMOS
from ..serving.process import checkpoint_flags, serving
from .chromium import launched

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = ROOT / "docs" / "pictures"
MAX_BYTES = 150_000
"""Of a picture: pages with many of them stay light."""

DESKTOP = {"viewport": {"width": 1280, "height": 960}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}

TALE = {
    "prompt": "Once upon a time",
    "model": "mdlm",
    "seq_len": 128,
    "num_inference_steps": 64,
    "temperature": 0.7,
    "seed": 11,
}


@dataclass(frozen=True)
class Shot:
    """A run, and how it is looked at.

    runs: what is asked, of one or of two. at: share of the states that is shown, from 0 to 1. colouring: a label of the page.
    """

    runs: Sequence[dict[str, Any]]
    screen: dict[str, Any] = field(default_factory=lambda: DESKTOP)
    scheme: Literal["light", "dark"] = "light"
    at: float = 0.45
    colouring: str = "Age"
    view: str = "Cells"
    endpoint: str = "/sample"

    @property
    def fragment(self) -> str:
        """The page's address after #."""
        fields: dict[str, Any] = {}
        for before, run in zip(("", "b."), self.runs, strict=False):
            fields |= {before + name: value for name, value in ({"endpoint": self.endpoint} | run).items()}
        return urlencode(fields)


PICTURES: dict[str, Shot] = {
    "desktop-light.png": Shot([TALE]),
    "desktop-dark.png": Shot([TALE], scheme="dark", at=0.6),
    "phone.png": Shot([TALE | {"seq_len": 64}], screen=PHONE),
    "side-by-side.png": Shot([TALE | {"seq_len": 64, "num_inference_steps": steps} for steps in (8, 64)], at=0.5),
    "step-map.png": Shot([TALE | {"block_size": 16}], endpoint="/sample/block", colouring="Step map", at=1.0),
    "denoising.svg": Shot([TALE | {"seq_len": 96}], at=1.0),
}
"""name in docs/pictures/ -> what it shows; a name that ends in .svg is an animation that the page saves."""


@contextmanager
def shown(browser: Browser, url: str, shot: Shot) -> Iterator[Page]:
    """The player with the shot's run, over, at the state that is to be seen."""
    context = browser.new_context(color_scheme=shot.scheme, **shot.screen)
    try:
        page = context.new_page()
        page.goto(f"{url}/#{shot.fragment}")
        page.locator("#run:enabled").click()
        page.wait_for_function("() => document.documentElement.dataset.state === 'done'", timeout=120_000)
        page.get_by_label(shot.colouring, exact=True).check()
        page.get_by_label(shot.view, exact=True).check()
        position = page.get_by_label("Position")
        position.fill(str(round(shot.at * int(position.get_attribute("max") or 0))))
        page.evaluate("() => document.activeElement.blur()")
        # Nothing is pointed at, nothing moves any more.
        page.mouse.move(0, 0)
        if shot.screen is PHONE:
            page.locator("#stage").evaluate("(stage) => stage.scrollIntoView({ block: 'start', behavior: 'instant' })")
        page.evaluate("() => Promise.all(document.getAnimations().map(({ finished }) => finished))")
        yield page
    finally:
        context.close()


def photograph(page: Page) -> bytes:
    """PNG of what the window shows, in so few colours that nobody sees it, a third as large."""
    whole = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    few = whole.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    few.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def animation(page: Page) -> bytes:
    """What the page gives when it is asked to save the run as an animation."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save animation").click()
    return Path(download.value.path()).read_bytes()


def main(names: Sequence[str]) -> int:
    """0; 1 where one is too large, 2 for a name that is none."""
    if unknown := [name for name in names if name not in PICTURES]:
        print(f"pictures: error: no {', '.join(unknown)}; there are {', '.join(PICTURES)}", file=sys.stderr)
        return 2
    FOLDER.mkdir(exist_ok=True)
    failed = False
    with serving("server", checkpoint_flags(DEMOS)) as server, launched() as browser:
        for name in names or PICTURES:
            take: Callable[[Page], bytes] = animation if name.endswith(".svg") else photograph
            with shown(browser, server.url, PICTURES[name]) as page:
                picture = take(page)
            (FOLDER / name).write_bytes(picture)
            print(f"{name}: {len(picture) / 1000:.0f} kB", flush=True)
            failed |= len(picture) > MAX_BYTES
    if failed:
        print(f"pictures: error: more than {MAX_BYTES / 1000:.0f} kB", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except FileNotFoundError as error:
        sys.exit(f"pictures: error: {error}")
