"""What the authors' loops made of a tiny network, step by step: `recorded/`, of which the README there tells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent / "recorded"
VOCAB_SIZE, MASK = 40, 39


@dataclass(frozen=True)
class Network:
    """The network of the recordings: `(tokens [B, L], t [B]) -> logits [B, L, V]`, which is told no time."""

    weights: dict[str, Tensor]

    def __call__(self, tokens: Tensor, t: Tensor) -> Tensor:
        return torch.stack([self._row(row) for row in tokens])

    def _row(self, tokens: Tensor) -> Tensor:
        """A row alone, so that its rounding is its own."""
        n, weights = len(tokens), self.weights
        hidden = torch.tanh(weights["mixing"][:, :n] @ weights["embedding"][tokens] + weights["place"])
        logits = (hidden @ weights["head"])[:, weights["column"]]
        logits[:, MASK] = -1e4
        return logits[weights["kind"][:n]]


@dataclass(frozen=True)
class Recording:
    """A case. canvases: int64 [steps + 1, L], what the network was shown at each step, and the end.

    tokens_u, positions_u: float64 [steps, L], by which tokens and positions were drawn; none where they were not.
    """

    network: Network
    parameters: dict[str, Any]
    canvases: Tensor
    tokens_u: Tensor | None
    positions_u: Tensor | None

    @property
    def template(self) -> list[int]:
        """The first canvas, -1 where it is open."""
        return [-1 if token == MASK else token for token in self.canvases[0].tolist()]

    @property
    def end(self) -> list[int]:
        end: list[int] = self.canvases[-1].tolist()
        return end

    @property
    def step_map(self) -> list[int]:
        """The step, counted from 1, that set each position; 0 where it is fixed."""
        masks = (self.canvases == MASK).sum(0)
        steps: list[int] = masks.tolist()
        return steps

    @property
    def evaluations(self) -> int:
        """Steps that set anything."""
        return int((self.canvases[1:] != self.canvases[:-1]).any(1).sum())


@cache
def networks() -> dict[str, Network]:
    found: dict[str, dict[str, Tensor]] = {}
    with safe_open(FOLDER / "networks.safetensors", framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (no mapping)
            name, _, weight = key.partition(".")
            found.setdefault(name, {})[weight] = file.get_tensor(key)
    return {name: Network(weights) for name, weights in found.items()}


@cache
def recordings(origin: str) -> dict[str, Recording]:
    """Those of one loop, by their names."""
    found = {}
    with safe_open(FOLDER / f"{origin}.safetensors", framework="pt") as file:
        cases, keys = json.loads(file.metadata()["cases"]), set(file.keys())
        for name, parameters in cases.items():
            uniforms = [
                file.get_tensor(key).double() if key in keys else None
                for key in (f"{name}.tokens_u", f"{name}.positions_u")
            ]
            network = networks()[parameters.pop("network")]
            canvases = file.get_tensor(f"{name}.canvases").long()
            found[name] = Recording(network, parameters, canvases, *uniforms)
    return found
