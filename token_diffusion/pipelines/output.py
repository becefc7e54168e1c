"""What a pipeline returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils import BaseOutput
from torch import Tensor

OUTPUT_TYPES = ("text", "tokens", "pt", "np")


@dataclass
class TokenDiffusionPipelineOutput(BaseOutput):
    """N sequences, the samples of the first prompt first.

    sequences: int64 [N, L] on the CPU, the frame included; shorter ones end in padding (the mask, where the tokenizer has no
        padding). An array for "np"; for "tokens" N lists, each of its own length.
    texts: N strings without frame and special tokens, for "text". seeds: of each prompt; they give the same tokens again.
    nfe: network evaluations that each prompt needed, one after the other; its samples share them.
    logprobs: where they were asked for, beside the sequences, in the same form and as long: each token's log-probability by the
        network itself when it was set; NaN where it is fixed or did not come from the network, and in padding.
    """

    sequences: Any
    texts: list[str] | None
    seeds: list[int]
    nfe: list[int]
    logprobs: Any = None


def stacked(states: list[Tensor], padding: float) -> Tensor:
    """States [S, L'] as one [N, L], L the longest, shorter ones padded at their end."""
    length = max(state.shape[1] for state in states)
    return torch.cat([F.pad(state, (0, length - state.shape[1]), value=padding) for state in states])


def as_output(states: list[Tensor], padding: float, output_type: str) -> Any:
    """The sequences of states [S, L] in one of the `OUTPUT_TYPES`."""
    if output_type == "tokens":
        return [row for state in states for row in state.tolist()]
    sequences = stacked(states, padding)
    return sequences.numpy() if output_type == "np" else sequences
