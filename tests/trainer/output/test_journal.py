"""A run's log lines outlive what happens to their file: a cut anywhere, a full disk, a crash while it is written anew."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from trainer.output.journal import Journal, Record, read

RECORDS: list[Record] = [{"step": step, "samples": [f"naïve\u2028日本 {step}"]} for step in (1, 2, 3)]


def written(path: Path) -> Journal:
    journal = Journal(path)
    journal.start()
    for record in RECORDS:
        journal.append(record)
    return journal


def test_a_line_that_was_cut_anywhere_is_dropped(tmp_path: Path) -> None:
    """Inside a character too, which is more than a byte."""
    path = tmp_path / "history.jsonl"
    written(path)
    whole = path.read_bytes()
    assert read(path) == RECORDS
    for end in range(whole.rindex(b"{") + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert read(path) == RECORDS[:2]
        resumed = Journal(path)
        resumed.start(2)
        resumed.append(RECORDS[2])
        assert path.read_bytes() == whole


def test_a_resume_keeps_what_is_before_its_step(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    written(path)
    Journal(path).start(2)
    assert read(path) == RECORDS[:2] and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_crash_while_it_is_written_anew_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.jsonl"
    written(path)

    def crash(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        Journal(path).start(2)
    assert read(path) == RECORDS


def test_a_full_disk_costs_one_warning_and_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be written is written when there is room again, behind no half of a line."""
    path = tmp_path / "history.jsonl"
    journal = Journal(path)
    journal.start()
    journal.append(RECORDS[0])

    def full(self: Path, *arguments: Any, **options: Any) -> Any:
        with open(self, "a") as file:
            file.write('{"st')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        patch.setattr(Path, "write_text", full)
        journal.append(RECORDS[1])
        journal.append({"step": 2})
    (line,) = caplog.messages
    assert line == f"{path} could not be written (No space left on device): the run goes on"
    assert read(path) == RECORDS[:1]
    journal.append(RECORDS[2])
    assert read(path) == [*RECORDS[:2], {"step": 2}, RECORDS[2]] == journal.records
