"""How smoothly the player shows a large run: the time between two frames, in headless Chromium.

    python -m benchmarks page [--num_samples 16] [--seq_len 1024] [--seconds 10] [--rounds 3]

A run is recorded from a live server, and told to the page again at a pace, so that the browser has the machine to itself. The
page tells the times of its frames (requestAnimationFrame) while the run is told and followed, while it is played at twice the
speed, and while the arrow keys go back and forth; in cells, the look that has more to draw. A screen has a frame every
16.7 ms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from transformers import BertConfig, BertForMaskedLM

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.checkpoint import save_checkpoint

from ..figures import percentile
from ..models import MASK, VOCAB_SIZE, random_tokenizer
from ..report import Section, Table
from ..serving.process import checkpoint_flags, serving
from .chromium import launched
from .recorded import record, replaying

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AIM_MS = 33.4
"""Of the 95th percentile: two frames of a screen, 33.3 ms, as the browser's clock tells them."""
NUM_STEPS = 128
DONE = "() => document.documentElement.dataset.state === 'done'"

WATCH = """() => {
  globalThis.frames = [];
  const told = (now) => {
    globalThis.frames.push(now);
    globalThis.watching = requestAnimationFrame(told);
  };
  globalThis.watching = requestAnimationFrame(told);
}"""
STOP = """() => {
  cancelAnimationFrame(globalThis.watching);
  return globalThis.frames;
}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num_samples", type=int, default=16, help="samples of the run")
    parser.add_argument("--seq_len", type=int, default=1024, help="tokens of each")
    parser.add_argument("--seconds", type=float, default=10.0, help="in which the run is told")
    parser.add_argument(
        "--rounds", type=int, default=3, help="pages, one after the other, whose frames are counted together"
    )


@contextmanager
def recorded(num_samples: int, seq_len: int) -> Iterator[tuple[str, list[bytes]]]:
    """A server, and the events of a run of it: every token of a random model of one narrow layer, in 128 steps."""
    with TemporaryDirectory(prefix="token-diffusion-") as folder:
        config = BertConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=16,
            max_position_embeddings=seq_len,
        )
        scheduler = TokenDiffusionScheduler(VOCAB_SIZE, MASK, forward_process="absorbing")
        model: Any = BertForMaskedLM(config)
        save_checkpoint(Path(folder), model.eval(), random_tokenizer(), scheduler)
        flags = [*checkpoint_flags({"random": Path(folder)}), "--max_seq_len", str(seq_len)]
        with serving("server", [*flags, "--max_num_samples", str(num_samples)]) as server:
            body = {"num_samples": num_samples, "seq_len": seq_len, "num_inference_steps": NUM_STEPS, "seed": 0}
            yield server.url, record(server.url, "/sample", body)


def intervals(page: Page, work: Callable[[], object]) -> list[float]:
    """Milliseconds between the page's frames while something is done to it."""
    page.evaluate(WATCH)
    work()
    times: list[float] = page.evaluate(STOP)
    return [after - before for before, after in pairwise(times)]


def measure(
    browser: Browser, url: str, body: dict[str, Any], doing: Sequence[str] = ("told", "played", "sought")
) -> dict[str, list[float]]:
    """What is done, the first of it being to tell the run -> the intervals between frames meanwhile, on a new page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{url}/#{urlencode({'endpoint': '/sample', **body})}")
        page.locator("#run:enabled").wait_for()

        def told() -> None:
            page.locator("#run").click()
            page.wait_for_function(DONE)

        def played() -> None:
            page.keyboard.press("Home")
            page.get_by_label("Speed").select_option("2")
            page.get_by_role("button", name="Play").click()
            page.get_by_role("button", name="Pause").wait_for()
            page.get_by_role("button", name="Play").wait_for()

        def sought() -> None:
            page.get_by_label("Position").focus()
            for key in ["End", *["ArrowLeft"] * 40, "Home", *["ArrowRight"] * 40]:
                page.keyboard.press(key)

        works = {"told": told, "played": played, "sought": sought}
        return {name: intervals(page, works[name]) for name in doing}
    finally:
        context.close()


def section(arguments: argparse.Namespace) -> Section:
    """One table, a row for each thing that is done."""
    rounds = 1 if arguments.quick else arguments.rounds
    body = {"num_samples": arguments.num_samples, "seq_len": arguments.seq_len, "num_inference_steps": NUM_STEPS}
    found: dict[str, list[float]] = {}
    with (
        recorded(arguments.num_samples, arguments.seq_len) as (url, events),
        replaying(url, events, len(events) / arguments.seconds) as address,
        launched() as browser,
    ):
        version = browser.version
        for _ in range(rounds):
            for name, values in measure(browser, address, body).items():
                found.setdefault(name, []).extend(values)
    note = (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip()
    size = f"{arguments.num_samples} samples of {arguments.seq_len} tokens, {len(events)} events"
    table = Table(["while the run is", "frames", "ms between frames, p50", "p95", "p99", "longest"])
    result = Section(
        "page", "The player's frames", [f"{note} {size} in {arguments.seconds:g} s; Chromium {version}.", table]
    )
    for name, values in found.items():
        table.add(name, len(values), *(percentile(values, percent) for percent in (50, 95, 99, 100)))
        if percentile(values, 95) > AIM_MS:
            result.failures.append(f"{name}: p95 above {AIM_MS:g} ms")
    return result
