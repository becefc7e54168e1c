"""A request while it is in a batch: where each of its samples has got to, whichever lanes their rows are in."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from ..samplers.parameters import SamplingParameters
from ..samplers.rows import Rows
from .updates import BlockEnd, Result, Update

NO_DISTRIBUTION = "the network's logits are NaN, or -inf for every token"


class Request:
    """Written by the lanes, a few array operations a tick however many samples there are.

    Args:
        tokens: [seq_len], negative where open. rows: its rows as they join.

    left: token passes that it may still need, at most.
    """

    def __init__(self, key: Hashable, tokens: Sequence[int], parameters: SamplingParameters, rows: Rows) -> None:
        self.key, self.parameters = key, parameters
        self.open = [index for index, token in enumerate(tokens) if token < 0]
        self.num_blocks = int(rows.num_blocks[0])
        self.num_unfinished = parameters.num_samples if self.open else 0
        self.tokens = rows.tokens.numpy().copy()  # [S, L]; a sample's are right once it has finished
        self.step_map = np.zeros_like(self.tokens)
        self.step, self.blocks = (np.zeros(parameters.num_samples, dtype=np.int64) for _ in range(2))
        self.t = np.full(parameters.num_samples, 1.0 if self.open else 0.0)
        self.nfe = self.blocks_told = 0
        self.left = int(rows.left.sum()) * len(tokens)

    def finish(self, samples: np.ndarray, tokens: np.ndarray, step_map: np.ndarray) -> None:
        """Some samples are complete: int64 [S'], [S', L], [S', L]."""
        length = self.tokens.shape[1]
        self.tokens[samples], self.step_map[samples] = tokens[:, :length], step_map[:, :length]
        self.num_unfinished -= len(samples)

    def retire(self, evaluations: int) -> None:
        """So many evaluations of one row were made, or will not be needed."""
        self.left -= evaluations * self.tokens.shape[1]

    def update(self, changes: list[tuple[int, int, int]]) -> Update:
        """What to tell after a tick; with the result when no sample is left unfinished."""
        slowest = int(self.step.argmin())
        done = int(self.blocks.min())
        blocks = [self._block(index) for index in range(self.blocks_told, done)]
        self.blocks_told = max(self.blocks_told, done)
        result = None if self.num_unfinished else self._result()
        left = 0 if result is not None else self.left
        return Update(
            self.key, int(self.step[slowest]), float(self.t[slowest]), self.nfe, changes, blocks, result, left=left
        )

    def failure(self) -> Update:
        """The last update of a request for which the network had no distribution."""
        return Update(self.key, int(self.step.min()), float(self.t.max()), self.nfe, [], [], None, NO_DISTRIBUTION)

    def _block(self, index: int) -> BlockEnd:
        length = self.tokens.shape[1]
        size = self.parameters.block_size or length
        start = self.open[0] + index * size
        return BlockEnd(index, start, min(start + size, length))

    def _result(self) -> Result:
        steps = (self.parameters.num_inference_steps or 0) * self.num_blocks
        fixed = self.tokens.shape[1] - len(self.open)
        skipped = max(steps - self.nfe, 0)
        filled = len(self.open) * len(self.tokens)
        return Result(self.tokens.tolist(), self.step_map.tolist(), self.nfe, skipped, fixed, filled)
