"""A file is whole or as it was, and one that is no ordinary file stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.output.files import check_writable, write_whole


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figures.json"
    write_whole(path, "ä\n")
    assert path.read_text(encoding="utf-8") == "ä\n"

    def full(*arguments: Any) -> None:
        raise OSError("full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="full"):
        write_whole(path, "other")
    assert [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()] == ["ä\n"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """So do devices: a file that is renamed to /dev/stdout would be the end of it."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    check_writable(link)
    write_whole(link, "text")
    assert link.is_symlink() and (tmp_path / "target").read_text() == "text"
    check_writable(Path("/dev/null"))
    write_whole(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


def test_looking_whether_it_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    for path in (tmp_path, tmp_path / "absent" / "new"):
        with pytest.raises(OSError, match="directory"):
            check_writable(path)
