from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.page.chromium import executable
from benchmarks.page.pictures import PICTURES, main


def program(path: Path) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_the_first_chromium_on_the_path_or_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"^Chromium is needed: none of chromium, .* on the path; install it"):
        executable()
    chrome, named = program(tmp_path / "google-chrome"), program(tmp_path / "mine")
    assert executable() == chrome
    chromium = program(tmp_path / "chromium")
    assert executable() == chromium
    monkeypatch.setenv("CHROMIUM", named)
    assert executable() == named
    monkeypatch.setenv("CHROMIUM", "nothing")
    with pytest.raises(FileNotFoundError, match=r"^Chromium is needed: no program 'nothing'; install it"):
        executable()


def test_a_picture_that_is_none_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing.png"]) == 2
    line = f"pictures: error: no nothing.png; there are {', '.join(PICTURES)}\n"
    assert capsys.readouterr().err == line
