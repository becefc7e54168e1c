"""Stretches of one array as sequences, and the file that such an array is written to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.data import tables
from trainer.data.tables import NpyFile, TokenTable, write_arrays

TOKENS = np.arange(10, 20, dtype=np.int32)


def table(*stretches: tuple[int, int], prefix: tuple[int, ...] = (), suffix: tuple[int, ...] = ()) -> TokenTable:
    starts, ends = np.array(stretches, dtype=np.int64).reshape(-1, 2).T
    return TokenTable(TOKENS, starts, ends, prefix, suffix)


def test_it_is_a_sequence_of_arrays() -> None:
    found = table((0, 3), (3, 3), (5, 6))
    assert [ids.tolist() for ids in found] == [[10, 11, 12], [], [15]] and found[-1].tolist() == [15]
    assert [ids.tolist() for ids in found[:2]] == [[10, 11, 12], []] and len(found) == 3
    with pytest.raises(IndexError):
        found[3]
    assert not table()
    framed = table((0, 2), (4, 5), prefix=(1, 2), suffix=(3,))
    assert [ids.tolist() for ids in framed] == [[1, 2, 10, 11, 3], [1, 2, 14, 3]]
    assert all(ids.dtype == np.int32 for ids in [*found, *framed])


def test_filled_sequences_have_one_length() -> None:
    found = TokenTable(TOKENS, np.array([0, 5]), np.array([2, 9]), prefix=(1,), fill=(3, 5))
    expected = [[1, 10, 11, 3, 3], [1, 15, 16, 17, 18]]
    assert [ids.tolist() for ids in found] == expected and found[0].dtype == np.int32
    assert [ids.tolist() for ids in found.first(1)] == expected[:1]
    assert found.counts(np.array([3])).tolist() == [2, 4], "of the text alone"


def test_counts_leave_special_tokens_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "COUNTED_AT_ONCE", 2)
    found = table((0, 3), (3, 3), (5, 6), (6, 10), (9, 10), prefix=(12,))
    counts = found.counts(np.array([11, 15, 99]))
    assert counts.tolist() == [2, 0, 0, 4, 1]
    assert [ids.tolist() for ids in found.only(counts > 1)] == [[12, 10, 11, 12], [12, 16, 17, 18, 19]]


def test_a_file_that_grew_is_the_array(tmp_path: Path) -> None:
    path = tmp_path / "tokens.npy"
    with NpyFile(path) as file:
        for part in (TOKENS[:3], TOKENS[3:3], TOKENS[3:]):
            file.append(part)
        assert len(file) == 10 and not path.exists()
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), TOKENS)
    with NpyFile(tmp_path / "empty.npy"):
        pass
    assert np.load(tmp_path / "empty.npy").shape == (0,)
    write_arrays(tmp_path / "a.npz", one=TOKENS, two=TOKENS[:2])
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["two"].tolist() == [10, 11]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.npz", "empty.npy", "tokens.npy"]


def test_a_file_that_failed_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError), NpyFile(tmp_path / "tokens.npy") as file:
        file.append(TOKENS)
        raise KeyError
    assert list(tmp_path.iterdir()) == []
