"""Forward passes recorded as CUDA graphs, and the few shapes that passes are padded to so that few have to be recorded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, int, int]
"""Rows, tokens of each, positions."""

LEAST: Shape = (2, 32, 16)
"""Of a recorded pass. One row would be compiled apart: what is 1 is a constant to the compiler."""


def bucket(asked: Shape, longest: int | None = None) -> Shape:
    """The shape that a pass is padded to: rows and positions to a power of two, lengths to one or to three halves of it.

    longest: the most tokens that the network takes in a row.
    """
    rows, length, count = (
        1 << max(least - 1, size - 1).bit_length() for size, least in zip(asked, LEAST, strict=True)
    )
    if length > LEAST[1] and asked[1] <= length * 3 // 4:
        length = length * 3 // 4
    return rows, length if longest is None else max(min(length, longest), asked[1]), count


class Recorded:
    """A forward pass of one shape as a CUDA graph: input and logits stay where they lay while it was recorded.

    beside: another one, whose memory of what lies between these is shared: never two of them are under way.
    """

    def __init__(self, forward: Any, given: dict[str, Tensor], beside: Recorded | None) -> None:
        self.given = {name: each.clone() for name, each in given.items()}
        self.graph = torch.cuda.CUDAGraph()
        pool = None if beside is None else beside.graph.pool()
        with torch.cuda.device(given["positions"].device):
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(2):  # what is compiled, chosen or allocated once is so before the recording
                    forward(**self.given)
            here.wait_stream(aside)
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.logits = forward(**self.given)

    def __call__(self, given: dict[str, Tensor]) -> Tensor:
        """The logits are the caller's own."""
        for name, each in given.items():
            self.given[name].copy_(each, non_blocking=True)
        self.graph.replay()
        return self.logits.clone()
