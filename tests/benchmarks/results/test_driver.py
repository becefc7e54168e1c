"""Commands are run once and told as they were typed; a part that fails keeps no other from its place on the page."""

from __future__ import annotations

import json
from hashlib import md5
from pathlib import Path

import pytest

from benchmarks.report import Section, Table
from benchmarks.results import __main__ as driver
from benchmarks.results.data import Data
from benchmarks.results.provenance import duration, provenance
from benchmarks.results.run import Failed, Run

TOOL = "json.tool"  # a module that prints what a file says, as one object


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.json").write_text('{"value": 1}', encoding="utf-8")
    return Run(Data(tmp_path / "data"), tmp_path / "work", "small")


def again(run: Run) -> Run:
    return Run(run.data, run.output, run.size)


def test_a_command_is_run_once_and_told_as_it_would_be_typed(run: Run) -> None:
    file = run.data.root / "a.json"
    assert run.module("one", TOOL, file) == {"value": 1}
    assert run.module("one", TOOL, file) == {"value": 1}
    (first,) = run.commands
    assert first.command == "python -m json.tool DATA/a.json" and first.cpu_seconds > 0
    file.write_text('{"value": 2}', encoding="utf-8")
    later = again(run)
    assert later.module("one", TOOL, file) == {"value": 1} and later.commands == [first]
    assert again(run).module("one", TOOL, "--indent", 1, file) == {"value": 2}  # another command of that name


def test_what_is_printed_before_the_figures_is_passed_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' Trainer prints its logs, too."""
    said = "{'loss': 1.5}\n" + json.dumps({"value": {"nested": [{}]}}, indent=2) + "\n"
    monkeypatch.setattr("benchmarks.results.run._stdout", lambda typed, words, log: said)
    assert run.module("one", TOOL) == {"value": {"nested": [{}]}}


def test_a_command_that_fails_says_its_last_lines_and_is_run_again(run: Run) -> None:
    file = run.data.root / "a.json"
    file.write_text("no json", encoding="utf-8")
    with pytest.raises(Failed, match=r"^python -m json\.tool DATA/a\.json\n(.*\n)*Expecting value"):
        run.module("one", TOOL, file)
    (record,) = (run.output / "records").glob("*.json")
    broken = json.loads(record.read_text("utf-8"))
    assert broken["stdout"] is None and run.commands == []
    file.write_text('{"value": 3}', encoding="utf-8")
    assert run.module("one", TOOL, file) == {"value": 3}
    assert run.commands[0].seconds > broken["seconds"] > 0  # of both attempts


def test_what_a_tokenizers_command_makes_is_a_folder_and_made_once(run: Run) -> None:
    text = run.data.root / "a.txt"
    text.write_text("the cat saw the moon\n" * 30, encoding="utf-8")
    flags = ("--train_file", text, "--vocab_size", 270)
    folder = run.trainer("tok", "tokenizer", *flags)
    assert folder == run.output / "tok"
    (folder / "tokenizer.json").unlink()
    again(run).trainer("tok", "tokenizer", *flags)
    assert not (folder / "tokenizer.json").exists()  # it was not run again


def test_one_name_is_of_one_command(run: Run) -> None:
    """Else the record of one would make the other be run again, each time."""
    run.module("one", TOOL, run.data.root / "a.json")
    with pytest.raises(ValueError, match=r"one is the name of python -m json\.tool DATA/a\.json"):
        run.module("one", TOOL, "--indent", 1, run.data.root / "a.json")


def test_what_was_run_is_told_under_the_table(run: Run) -> None:
    run.module("one", TOOL, run.data.root / "a.json")
    run.commands[0].seconds, run.commands[0].cpu_seconds = 3900.0, 61.2
    text = provenance(run)
    assert f"commit {run.commands[0].commit}; {run.commands[0].date};" in text
    assert "<summary>1 commands, 1 h 05 min (61 s of the processor)</summary>" in text
    assert "\npython -m json.tool DATA/a.json  # 1 h 05 min, 61 s\n" in text and str(run.data.root) not in text


def test_durations() -> None:
    said = [duration(seconds) for seconds in (0.4, 99, 101, 3599, 7205)]
    assert said == ["0 s", "99 s", "2 min", "1 h 00 min", "2 h 00 min"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the one file that is known, and two parts, of which the first fails."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.json").write_text('{"value": 1}', encoding="utf-8")
    (folder / "b.json").write_text("no json", encoding="utf-8")
    sums = {file.name: md5(file.read_bytes(), usedforsecurity=False).hexdigest() for file in folder.iterdir()}
    monkeypatch.setattr("benchmarks.results.data.MD5", sums)
    monkeypatch.setattr(driver, "MD5", sums)

    def part(name: str) -> driver.Callable[[Run], Section]:
        def section(run: Run) -> Section:
            table = Table(["value"])
            table.add(run.module(name, TOOL, run.data.file(f"{name}.json"))["value"])
            return Section(name, name.upper(), [table])

        return section

    monkeypatch.setattr(driver, "PARTS", {"b": part("b"), "a": part("a")})
    return folder


def test_a_part_that_fails_keeps_no_other_from_the_page(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert driver.main(["--data", str(data), "--work", str(tmp_path / "work")]) == 1
    told = capsys.readouterr()
    assert "b failed: python -m json.tool DATA/b.json\nExpecting value" in told.err
    page = (tmp_path / "work" / "small.md").read_text("utf-8")
    assert page.startswith("# Results\n") and "## A\n\n| value |\n| --- |\n| 1 |" in page and "## B" not in page
    assert "## A" in told.out


def test_what_cannot_be_made_is_said_in_a_line_before_anything_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(data), "--work", str(tmp_path / "work")]

    def said(*more: str) -> str:
        assert driver.main([*given, *more]) == 2
        line = capsys.readouterr().err
        assert line.startswith("python -m benchmarks.results: ") and line.count("\n") == 1
        return line

    assert "PART must be one of b, a, got 'c'" in said("c")
    assert "output must be another page than docs/results.md" in said("a", "--output", str(driver.PAGE))
    (data / "a.json").write_text("{}", encoding="utf-8")
    assert "data must hold a.json with the md5 sum" in said()
    assert not (tmp_path / "work").exists()
    (data / "a.json").unlink()
    assert driver.main([*given, "a"]) == 2  # only when the part asks for it
    assert "data must hold a.json (docs/results.md says" in capsys.readouterr().err
