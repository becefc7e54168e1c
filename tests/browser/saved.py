"""Saved runs, written by hand: what they tell does not depend on how fast a server and a page are, nor which states it merges."""

from __future__ import annotations

import json
from typing import Any

from tests.browser.player import Player
from tests.browser.watched import Open
from tests.live_server import LiveServer

MASK = 4
PIECES = {4: "[MASK]", 5: "a", 6: " b", 7: " c", 8: " d"}


def archive(states: list[dict[str, Any]], step_map: list[int], logprobs: list[float | None] | None = None) -> bytes:
    """A saved run of one sample, which begins blank, with a state for each of these."""
    tokens = [MASK] * len(step_map)
    start = {"model": "m", "process": "absorbing", "seed": 1, "num_inference_steps": max(step_map)}
    told = [{"event": "start", "data": start | {"tokens": [[*tokens]]}}]
    for state in states:
        told.append({"event": "state", "data": {"t": 0.5, "nfe": 1} | state})
        for _, position, token in state["changes"]:
            tokens[position] = token
    done = {
        "samples": [{"text": "".join(PIECES[token] for token in tokens)}],
        "step_map": [step_map],
        "usage": {"prompt_tokens": 0, "completion_tokens": len(tokens), "forwards_skipped": 0},
        "timings": {"total_ms": 1},
    }
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


def opened(live: LiveServer, open_page: Open, run: bytes) -> Player:
    """A page that shows a saved run at its end, where no server is."""
    page = open_page(live.url, prepare=lambda page: page.route("**/ready", lambda route: route.abort()))
    player = Player(page)
    file: Any = {"name": "run.json", "mimeType": "application/json", "buffer": run}
    page.locator("#open-run").set_input_files(file)
    player.wait("done")
    player.end()
    return player
