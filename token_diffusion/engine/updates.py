"""What a batch tells about a request: after each tick an `Update`, with the last one its `Result`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class BlockEnd:
    """Block number `block`, positions [start, end), is filled in every sample."""

    block: int
    start: int
    end: int


@dataclass(frozen=True)
class Result:
    """A finished request.

    tokens, step_map: [num_samples][seq_len]; step_map says which step last set a position, 0 for fixed and initial ones.
    nfe: network evaluations, one after the other (samples of a request share them). forwards_skipped: grid steps that
    needed none. prompt_tokens: fixed positions; completion_tokens: filled ones, over all samples.
    logprobs: [num_samples][seq_len], where they were asked for: of each token when it was set, by the network's own distribution,
    unshaped; None where it is fixed, or was set by noise alone.
    """

    tokens: list[list[int]]
    step_map: list[list[int]]
    nfe: int
    forwards_skipped: int
    prompt_tokens: int
    completion_tokens: int
    logprobs: list[list[float | None]] | None = None


@dataclass(frozen=True)
class Scores(Result):
    """A scored text: `tokens` [1][seq_len] are its own, and no step set any.

    nfe: noised versions that the network was shown. prompt_tokens: given ones; completion_tokens: those that were scored.
    values: float64 [num_times, seq_len], nats of each token at each time; their mean over the times is the bound.
    """

    values: np.ndarray = field(compare=False, kw_only=True)


@dataclass(frozen=True)
class Update:
    """What one tick did to a request. `changes` are (sample, position, token_id): set, never append.

    step: grid steps done by the slowest sample. t: the time it reached. result: there with the last update.
    left: token passes that the request may still need, at most (`samplers.price`).
    logprobs: of the changes, in their order, where they were asked for, as in `Result`.
    error: why there will be no result; then this is the last update, and the request has left the batch.
    """

    key: Hashable
    step: int
    t: float
    nfe: int
    changes: list[tuple[int, int, int]]
    blocks: list[BlockEnd]
    result: Result | None
    error: str | None = None
    left: int = 0
    logprobs: list[float | None] | None = None
