"""The loss curve: a picture where matplotlib is there, a small table anyhow, and the journal both are drawn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.output.journal import Journal, read
from trainer.report import curve

HISTORY = [{"step": step, "nelbo": 8 / step, "lr": 1e-3} for step in range(1, 101)]
VALIDATED = [{"step": step, "validation_nelbo": 9 / step, "validation_error": 0.5} for step in (33, 100)]


def test_the_table_has_the_first_and_the_last_step_and_few_between() -> None:
    lines = curve.table([*HISTORY, *VALIDATED]).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(cells) == curve.NUM_ROWS and [row[0] for row in cells][:: curve.NUM_ROWS - 1] == ["1", "100"]
    assert cells[0][1:] == ["8.0000", "", "0.001"]
    assert cells[-1][1:] == ["0.0800", "0.0900 ± 0.5000", "0.001"]
    shown = [row for row in cells if "(step 33)" in row[2]]
    assert [row[0] for row in shown] == ["43"] and shown[0][2].startswith("0.2727 ± 0.5000")
    assert curve.table([]) == ""
    assert curve.table([{"step": 5, "validation_nelbo": 1.0, "validation_error": None}]).endswith(
        "| 5 |  | 1.0000 |  |"
    )


def test_the_picture_is_a_png_with_both_curves() -> None:
    pytest.importorskip("matplotlib")
    training = curve.draw(HISTORY)
    both = curve.draw([*HISTORY, *VALIDATED])
    assert training is not None and both is not None
    assert training.startswith(b"\x89PNG\r\n") and training != both
    assert curve.draw(VALIDATED) is None and not curve.can_draw([])


def test_without_matplotlib_there_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "find_spec", lambda name: None)
    assert curve.draw(HISTORY) is None and not curve.can_draw(HISTORY)


def test_a_journal_goes_on_from_a_step(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    journal = Journal(path)
    journal.start()
    for record in HISTORY[:6]:
        journal.append(record)
    with path.open("a") as file:
        file.write('{"step": 7, "nel')  # a crash while it was written
    again = Journal(path)
    again.start(4)
    again.append({"step": 5, "nelbo": 0.5, "lr": 0.0})
    assert read(path) == again.records == [*HISTORY[:4], {"step": 5, "nelbo": 0.5, "lr": 0.0}]
    assert path.read_text() == again.text()
    anew = Journal(path)
    anew.start()
    assert read(path) == anew.records == []


def test_a_journal_goes_on_from_another_file(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint.jsonl"
    (tmp_path / "own.jsonl").write_text('{"step": 1, "nelbo": 9}\n')
    source.write_text('{"step": 2, "nelbo": 1}\n{"step": 3, "text": "ä"}\n')
    journal = Journal(tmp_path / "own.jsonl")
    journal.start(3, source)
    assert read(journal.path) == [{"step": 2, "nelbo": 1}, {"step": 3, "text": "ä"}]
