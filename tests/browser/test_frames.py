"""A large run without jank: 16 samples of 1024 tokens, told by a recording, so that the engine takes none of the machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import pytest
from playwright.sync_api import Browser

from benchmarks.figures import percentile
from benchmarks.page.frames import AIM_MS, measure
from benchmarks.page.recorded import record, replaying
from tests.browser.player import Player, link, pieces
from tests.browser.watched import Open
from tests.live_server import faked, serving
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]
pytestmark = pytest.mark.browser

BODY: dict[str, Any] = {"num_samples": 16, "seq_len": 1024, "num_inference_steps": 128, "seed": 3}
SOFT = "SOFT_FRAMES"
"""Set where others share the machine: what was measured is printed then, and not held to the aim."""


def test_a_large_run_is_shown_without_jank(tiny: Mapping[str, Checkpoint], chromium: Browser, open_page: Open) -> None:
    checkpoint, _ = faked(tiny["absorbing"])
    with serving({"absorbing": checkpoint}) as server:
        events = record(server.url, "/sample", BODY)
        names = pieces(server, "absorbing")
        with replaying(server.url, events, len(events) / 5) as address:
            found = measure(chromium, address, BODY, ("told", "played"))
        with replaying(server.url, events, 10_000) as address:
            player = Player(open_page(address + link("/sample", BODY))).begun()
            player.run()
            player.grid(15).scroll_into_view_if_needed()
            player.page.wait_for_function("() => document.querySelector(\"[data-sample='15'] .cell\") !== null")
            (done,) = [json.loads(line[6:]) for line in events[-1].splitlines() if line.startswith(b"data: ")]
            for sample in (0, 15):
                assert player.labels(sample) == [names[token] for token in done["samples"][sample]["tokens"]]
            player.page.close()
    ninety_fifth = {name: percentile(values, 95) for name, values in found.items()}
    assert min(len(values) for values in found.values()) > 50, "frames were counted"
    if os.environ.get(SOFT):
        print(ninety_fifth)
    else:
        assert max(ninety_fifth.values()) <= AIM_MS, f"{ninety_fifth}; {SOFT}=1 where others share the machine"
