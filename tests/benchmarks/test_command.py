"""A command ends with what its work returns; a mistake is one line, and anything else is not taken for one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks import command


def test_a_mistake_is_one_line_and_anything_else_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["program", "7"])

    def main(arguments: Sequence[str]) -> int:
        raise OSError(f"no place for {arguments[0]}")

    with pytest.raises(SystemExit) as ended:
        command.run("benchmarks.some", lambda arguments: int(arguments[0]))
    assert ended.value.code == 7
    with pytest.raises(SystemExit) as ended:
        command.run("benchmarks.some", main, (ValueError, OSError))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "python -m benchmarks.some: error: no place for 7\n"
    with pytest.raises(OSError, match="no place for 7"):
        command.run("benchmarks.some", main)


def test_help_has_the_docstring_as_it_stands() -> None:
    parser = command.make_parser("benchmarks.some", "First.\n\n    python -m it   as typed\n")
    assert "    python -m it   as typed\n" in parser.format_help()
    assert parser.format_usage().startswith("usage: python -m benchmarks.some")
