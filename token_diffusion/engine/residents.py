"""Rows of one sampler in a lane: all of them resident, those that were stepped last gathered for as long as they are stepped."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..samplers import Sampler
from ..samplers.rows import Rows
from .table import Table


class Residents:
    """Resident rows, and among them those that were stepped last, which stay gathered as long as the same ones are chosen.

    Args:
        longest: positions of the longest row that is expected.

    Attributes:
        number, sample: int64, of the row in each slot: its request's number, and which of its rows it is.
        slots: int64, of the gathered rows; -1 where the row has left.
    """

    def __init__(self, sampler: Sampler, longest: int) -> None:
        self.sampler = sampler
        self.number, self.sample, self.slots = (np.empty(0, dtype=np.int64) for _ in range(3))
        self._size = 0
        self._table = Table(longest)
        self._marks = np.zeros(1, dtype=bool)  # one a slot, all False between two questions, and one more for -1
        self._rows: Rows | None = None

    def __len__(self) -> int:
        return self._size

    def put(self, rows: Rows, number: int) -> np.ndarray:
        """Slots for all rows of request `number`."""
        slots = self._table.put(rows)
        if (more := len(self._table.lengths) - len(self.number)) > 0:
            self.number, self.sample = (np.pad(each, (0, more)) for each in (self.number, self.sample))
            self._marks = np.pad(self._marks, (0, more))
        self.number[slots], self.sample[slots] = number, np.arange(len(slots))
        self._size += len(slots)
        return slots

    def free(self, slots: np.ndarray) -> None:
        """The rows in these slots leave."""
        self._table.free(slots)
        self._size -= len(slots)
        self.slots = np.where(self.among(self.slots, slots), -1, self.slots)

    def gather(self, slots: np.ndarray) -> Any:
        """The rows in these slots, those of a request one after the other; what has been gathered is used if it can be."""
        rows, before = self._rows, self.slots
        here = self.among(before, slots)
        if rows is None or np.count_nonzero(here) < len(slots):
            if rows is not None:
                self._put_back(rows, before >= 0)
            rows = self._table.read(slots)
            self.slots = slots
        elif len(slots) < len(before):
            self._put_back(rows, ~here & (before >= 0))
            rows = rows.select(torch.from_numpy(here)).trimmed()
            self.slots = before[here]
        self._rows = rows
        return rows

    def among(self, slots: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Which of `slots` are among `others`; -1 never is."""
        self._marks[others] = True
        found = self._marks[slots]
        self._marks[others] = False
        return found

    @property
    def starts(self) -> np.ndarray:
        """Where among the gathered rows those of each request begin."""
        return np.flatnonzero(np.diff(self.number[self.slots], prepend=-1))

    def _put_back(self, rows: Rows, which: np.ndarray) -> None:
        if which.any():
            some = rows if which.all() else rows.select(torch.from_numpy(which))
            self._table.write(self.slots[which], some)
