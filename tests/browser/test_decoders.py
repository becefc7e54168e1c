"""The decoders on the page: how sure the model was, as colour, and what was set anew or taken back, told apart."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.player import Player
from tests.browser.watched import Open
from tests.live_server import LiveServer

pytest_plugins = ["tests.server_fixtures"]
pytestmark = pytest.mark.browser

MASK = 4
PIECES = {4: "[MASK]", 5: "a", 6: " b", 7: " c", 8: " d"}


def archive(states: list[dict[str, Any]], step_map: list[int], logprobs: list[float | None] | None = None) -> bytes:
    """A saved run of four tokens, which all begin blank, with a state for each of these."""
    start = {"model": "m", "process": "absorbing", "seed": 1, "num_inference_steps": 8, "tokens": [[MASK] * 4]}
    done = {
        "samples": [{"text": "a b c d"}],
        "step_map": [step_map],
        "usage": {"prompt_tokens": 0, "completion_tokens": 4, "forwards_skipped": 0},
        "timings": {"total_ms": 1},
    }
    told = [{"event": "start", "data": start}]
    told += [{"event": "state", "data": {"t": 0.5, "nfe": 1} | state} for state in states]
    told += [{"event": "done", "data": done if logprobs is None else done | {"logprobs": [logprobs]}}]
    parameters = {"sampler": "remdm"} | ({} if logprobs is None else {"logprobs": True})
    run = {
        "settings": {"endpoint": "/sample", "parameters": parameters},
        "model": {"mask_token_id": MASK, "mask_token": "[MASK]"},
        "pieces": PIECES,
        "separates": False,
        "events": told,
    }
    return json.dumps({"format": "token-diffusion-run", "version": 1, "runs": [run]}).encode()


def logs(*probabilities: float | None) -> list[float | None]:
    return [None if p is None else math.log(p) for p in probabilities]


STATES: list[dict[str, Any]] = [
    {"step": 1, "changes": [[0, 0, 5], [0, 1, 8]], "logprobs": logs(0.83, 0.02)},
    {"step": 2, "changes": [[0, 1, MASK], [0, 2, 6]], "logprobs": logs(None, 0.5)},
    {"step": 3, "changes": [[0, 1, 6], [0, 2, 7], [0, 3, 8]], "logprobs": logs(0.999, 0.4, None)},
]
"""Position 1 is taken back and set again, 2 is set to another token, and of 3 it is not told how probable it was."""
TOLD = archive(STATES, [1, 3, 3, 3], logs(0.83, 0.999, 0.4, None))
OLD = archive([{name: state[name] for name in ("step", "changes")} for state in STATES], [1, 3, 3, 3])


def opened(live: LiveServer, open_page: Open, run: bytes) -> Player:
    """A page that shows a saved run at its end, where no server is."""
    page = open_page(live.url, prepare=lambda page: page.route("**/ready", lambda route: route.abort()))
    player = Player(page)
    file: Any = {"name": "run.json", "mimeType": "application/json", "buffer": run}
    page.locator("#open-run").set_input_files(file)
    player.wait("done")
    player.end()
    return player


def said(player: Player, position: int) -> str:
    """What is told of the cell at this position."""
    cell = player.grid().locator("span").nth(position)
    cell.hover()
    player.drawn()
    told = player.page.locator(".inspector").inner_text()
    assert cell.get_attribute("title") == told
    return told


def again(player: Player) -> list[int]:
    return [position for position, kinds in enumerate(player.kinds()) if "again" in kinds]


def test_confidence_is_a_colour_and_a_cell_tells_its_history(live: LiveServer, open_page: Open) -> None:
    player = opened(live, open_page, TOLD)
    expect(player.page.get_by_label("Confidence")).to_be_checked()  # as when it was saved
    kinds = player.kinds()
    heats = [next((name for name in sorted(names) if name.startswith("heat-")), None) for names in kinds]
    assert heats == [f"heat-{int(0.83 * 16)}", "heat-15", f"heat-{int(0.4 * 16)}", None]
    assert "untold" in kinds[3]
    assert again(player) == [1, 2]
    legend = player.page.locator("#legend")
    for word in ("unsure", "sure", "not told", "rewritten", "taken back"):
        expect(legend).to_contain_text(word)
    assert "set at step 1, p = 0.83" in said(player, 0)
    assert said(player, 1).endswith(
        "set at step 3, p = 1.00 · before: “d” at step 1, p = 0.02, then taken back at step 2"
    )
    assert said(player, 2).endswith("set at step 3, p = 0.40 · before: “b” at step 2, p = 0.50")
    assert said(player, 3).endswith("set at step 3")
    expect(player.page.locator(".facts")).to_contain_text("2 rewrites · ")
    player.press("ArrowLeft")
    assert again(player) == [1] and "mask" in player.kinds()[1], "it is taken back, and has not been set again"
    assert player.page.locator(".facts").inner_text().count("rewrite") == 0
    player.press("Home", "ArrowRight")  # sought from the beginning, which knew of no probabilities
    assert f"heat-{int(0.83 * 16)}" in player.kinds()[0] and "heat-0" in player.kinds()[1]


def test_an_old_saved_run_tells_of_no_confidence_but_of_rewrites(live: LiveServer, open_page: Open) -> None:
    player = opened(live, open_page, OLD)
    expect(player.page.get_by_label("Confidence")).to_be_hidden()
    expect(player.page.get_by_label("Age", exact=True)).to_be_checked()
    assert again(player) == [1, 2]
    assert "p =" not in said(player, 1)
