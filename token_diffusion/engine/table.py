"""Resident rows in slots: to join, to leave and to be stepped costs nothing for the rows that do none of it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..samplers.rows import Rows


class Table:
    """Rows of one kind, of at most `width` positions; longer ones widen it. Slots of rows that have left are given to others.

    lengths: int64, of the row in each slot.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: Rows | None = None
        self._free: list[int] = []
        self.lengths = np.empty(0, dtype=np.int64)

    def put(self, rows: Rows) -> np.ndarray:
        """Slots int64 [R] for rows that join, all of one length."""
        table, length = self._with_room(rows), rows.tokens.shape[1]
        slots = np.array([self._free.pop() for _ in range(len(rows))], dtype=np.int64)
        index = torch.from_numpy(slots)
        for name, value in rows.items():
            padded = F.pad(value, (0, self._width - length)) if value.dim() == 2 else value
            getattr(table, name).index_copy_(0, index, padded)
        self.lengths[slots] = length
        return slots

    def free(self, slots: np.ndarray) -> None:
        """The rows in these slots have left."""
        self._free += slots.tolist()

    def read(self, slots: np.ndarray) -> Rows:
        """Copies of these rows, as long as the longest of them."""
        assert self._rows is not None
        index, length = torch.from_numpy(slots), int(self.lengths[slots].max())
        return type(self._rows)(
            **{name: _cut(value, length).index_select(0, index) for name, value in self._rows.items()}
        )

    def write(self, slots: np.ndarray, rows: Rows) -> None:
        """What ticks have made of copies of these rows."""
        index, length = torch.from_numpy(slots), rows.tokens.shape[1]
        for name in rows.CHANGING:
            _cut(getattr(self._rows, name), length).index_copy_(0, index, getattr(rows, name))

    def _with_room(self, rows: Rows) -> Rows:
        """The table, twice as large if it was full."""
        table, length, short = self._rows, rows.tokens.shape[1], len(rows) - len(self._free)
        if table is None or length > self._width or short > 0:
            size = len(self.lengths)
            more = max(size, short, 8) if short > 0 else 1  # the one is there to widen
            width = max(self._width, length)
            blank = rows.select(torch.zeros(more, dtype=torch.int64)).widened(width)
            table = blank if table is None else table.join(blank)
            self.lengths = np.concatenate([self.lengths, np.zeros(more, dtype=np.int64)])
            self._free += range(size + more - 1, size - 1, -1)
            self._rows, self._width = table, width
        return table


def _cut(value: Tensor, length: int) -> Tensor:
    return value[:, :length] if value.dim() == 2 else value
