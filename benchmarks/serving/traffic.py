"""The requests that the benchmarks of the server send: mixed, and the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SEQ_LENS = (32, 64, 128, 256)
STEPS = (8, 16, 32, 64, 128)
BLOCK_SIZES = (16, 32)
TEMPERATURES = (0.7, 1.0, 1.0, 1.3)
TOP_PS = (0.9, 1.0)

LONG = {"seq_len": 256, "num_inference_steps": 128}
SHORT = {"seq_len": 32, "num_inference_steps": 8}


@dataclass(frozen=True)
class Ask:
    """One request; `label` tells apart what is measured apart."""

    path: str
    body: dict[str, Any]
    label: str = "mixed"

    @property
    def steps(self) -> int:
        """Grid steps of the whole request, through all blocks."""
        body = self.body
        blocks = -(-body["seq_len"] // body["block_size"]) if self.path == "/sample/block" else 1
        return int(body["num_inference_steps"]) * blocks

    @property
    def tokens(self) -> int:
        """Completion tokens: there is no prompt."""
        return int(self.body["seq_len"]) * int(self.body.get("num_samples", 1))


def mixed(models: dict[str, str], seed: int, most_tokens: int = 256, most_steps: int = 128) -> Iterator[Ask]:
    """Endless: three endpoints, lengths 32-256, 8-128 steps, three temperatures, with and without top-p, streamed.

    Steps of a block-wise request are divided among its blocks, so that no endpoint is more work than the others. The
    cheap end of lengths and steps comes as often as the dear one, so that a minute holds many requests.

    Args:
        models: endpoint path -> the model it is sent to; endpoints that are missing are not asked.
        most_tokens, most_steps: what is longer than these is left out.
    """
    generator = random.Random(seed)
    lengths = [value for value in SEQ_LENS if value <= most_tokens] or [most_tokens]
    steps = [value for value in STEPS if value <= most_steps] or [most_steps]
    while True:
        path = generator.choice(sorted(models))
        body: dict[str, Any] = {
            "model": models[path],
            "seq_len": generator.choice(lengths),
            "num_inference_steps": generator.choice(steps),
            "temperature": generator.choice(TEMPERATURES),
            "top_p": generator.choice(TOP_PS),
            "seed": generator.randrange(2**31),
        }
        if path == "/sample/block":
            body["block_size"] = generator.choice(BLOCK_SIZES)
            blocks = -(-body["seq_len"] // body["block_size"])
            body["num_inference_steps"] = max(2, body["num_inference_steps"] // blocks)
        yield Ask(path, body)


def endless(ask: dict[str, Any], model: str, label: str, seed: int) -> Iterator[Ask]:
    """The same request to /sample again and again, each with a seed of its own."""
    generator = random.Random(seed)
    while True:
        yield Ask("/sample", {"model": model, "seed": generator.randrange(2**31), **ask}, label)


def endpoints(processes: dict[str, str]) -> dict[str, str]:
    """Endpoint path -> model, from model -> process: whatever the models can serve."""
    first = {process: name for name, process in reversed(processes.items())}
    found = {}
    if ancestral := first.get("absorbing") or first.get("uniform"):
        found["/sample"] = ancestral
    if block := first.get("absorbing") or next(iter(processes), None):
        found["/sample/block"] = block
    if "hybrid" in first:
        found["/sample/hybrid"] = first["hybrid"]
    return found
