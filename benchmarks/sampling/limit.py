"""The limit beside a sampler: the forward passes that its work needs, and nothing else.

A recorder stands in the denoiser's place while our sampler runs and notes what it was asked; the same calls are then
made again, one after the other, with no sampler around them. What our run takes beyond that is our own overhead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from token_diffusion.networks.denoiser import as_denoiser


@dataclass(frozen=True)
class Call:
    """What the denoiser was asked: tokens [B, L], t [B], valid [B, L], positions [n], and labels [B] where it was told any."""

    tokens: Tensor
    t: Tensor
    valid: Tensor
    positions: Tensor
    labels: tuple[Tensor, ...] = ()


class Recorder:
    """A denoiser that notes its calls; everything else is the real one's."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.calls = as_denoiser(denoiser), list[Call]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, *labels: Tensor) -> Tensor:
        self.calls.append(Call(tokens.clone(), t.clone(), valid.clone(), positions.clone(), labels))
        return self.denoiser(tokens, t, valid, positions, *labels)


@torch.inference_mode()
def replay(denoiser: Any, calls: list[Call]) -> None:
    """The calls again; the logits are dropped as they come."""
    for call in calls:
        denoiser(call.tokens, call.t, call.valid, call.positions, *call.labels)
