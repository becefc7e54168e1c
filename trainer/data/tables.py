"""Token sequences as stretches of one long array, in memory or mapped from a file, and how such a file is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np

COUNTED_AT_ONCE = 4096


class TokenTable(Sequence[np.ndarray]):
    """Sequence i is prefix + tokens[starts[i] : ends[i]] + suffix: `tokens` int32, `starts` and `ends` int64.

    fill: a token, and the length that sequences are filled up to with it.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
        fill: tuple[int, int] | None = None,
    ) -> None:
        self.tokens, self.starts, self.ends = tokens, starts, ends
        self.prefix, self.suffix = np.array(prefix, dtype=np.int32), np.array(suffix, dtype=np.int32)
        self.fill = fill

    def first(self, count: int | None) -> TokenTable:
        """The first `count` sequences; None for all."""
        return self if count is None else self.only(np.arange(len(self)) < count)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        tokens = self.tokens[self.starts[index] : self.ends[index]]
        row = np.concatenate([self.prefix, tokens, self.suffix]) if len(self.prefix) or len(self.suffix) else tokens
        return row if self.fill is None else filled(row, *self.fill)

    def counts(self, special_ids: np.ndarray) -> np.ndarray:
        """How many tokens of each sequence are none of `special_ids`, int64 [n]; neither frame nor filling is looked at."""
        found = np.zeros(len(self), dtype=np.int64)
        for first in range(0, len(self), COUNTED_AT_ONCE):
            starts, ends = self.starts[first : first + COUNTED_AT_ONCE], self.ends[first : first + COUNTED_AT_ONCE]
            tokens = self.tokens[starts[0] : ends[-1]]
            sums = np.concatenate([[0], np.cumsum(np.isin(tokens, special_ids, invert=True), dtype=np.int64)])
            found[first : first + COUNTED_AT_ONCE] = sums[ends - starts[0]] - sums[starts - starts[0]]
        return found

    def only(self, kept: np.ndarray) -> TokenTable:
        """The sequences for which `kept` (bool [n]) is true."""
        frame = self.prefix.tolist(), self.suffix.tolist()
        return TokenTable(self.tokens, self.starts[kept], self.ends[kept], *frame, self.fill)


def filled(row: np.ndarray, token: int, length: int) -> np.ndarray:
    """The ids [L], int32, and behind them as many of `token` as `length` [tokens] has room for."""
    found = np.full(max(length, len(row)), token, dtype=np.int32)
    found[: len(row)] = row
    return found


class NpyFile:
    """An array int32 [n] that grows on disk and not in memory. It has its name only once it is whole."""

    def __init__(self, path: Path) -> None:
        self.path, self.part, self.length = path, path.with_suffix(f".{os.getpid()}"), 0

    def __len__(self) -> int:
        return self.length

    def append(self, tokens: np.ndarray) -> None:
        self.file.write(tokens.tobytes())
        self.length += len(tokens)

    def __enter__(self) -> NpyFile:
        self.file = self.part.open("wb")
        self._write_header()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: TracebackType | None) -> None:
        try:
            if kind is None:
                # numpy leaves room in the header for any length of the first axis.
                self.file.seek(0)
                self._write_header()
            self.file.close()
            if kind is None:
                self.part.rename(self.path)
        finally:
            self.part.unlink(missing_ok=True)

    def _write_header(self) -> None:
        layout = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)),
            "fortran_order": False,
            "shape": (self.length,),
        }
        np.lib.format.write_array_header_1_0(self.file, layout)


class InMemory:
    """The same without a file."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.length = 0

    def __len__(self) -> int:
        return self.length

    def append(self, tokens: np.ndarray) -> None:
        self.parts.append(tokens)
        self.length += len(tokens)

    def array(self) -> np.ndarray:
        return np.concatenate(self.parts) if self.parts else np.empty(0, np.int32)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """An .npz file, whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}")
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
