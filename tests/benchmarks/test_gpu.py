"""What is measured on a GPU, without one: it says so; each measurement runs, at tiny sizes, and none takes another with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.__main__ import main, make_parser
from benchmarks.gpu import one, part
from benchmarks.gpu.networks import SIZES, configuration, vocabulary
from benchmarks.gpu.notes import Notes, Setting
from benchmarks.report import Section
from token_diffusion.networks.transformer import TokenDiffusionForMaskedLM

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")


@without_gpu
def test_without_a_gpu_nothing_is_measured_and_nothing_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    assert main(["gpu", "--output", str(page)]) == 0
    assert "Not measured: no CUDA device." in page.read_text("utf-8") and "MFU" not in page.read_text("utf-8")
    assert main(["gpu", "--device", "cpu"]) == 0  # in full on a CPU it would take hours
    assert "Not measured" in capsys.readouterr().out


def test_the_device_is_the_gpu_unless_it_is_named() -> None:
    assert make_parser().parse_args(["gpu"]).device == "cuda"
    assert make_parser().parse_args(["gpu", "--device", "cpu"]).device == "cpu"
    assert make_parser().parse_args(["samplers"]).device == "cpu"


def test_sizes_are_what_they_are_called() -> None:
    with torch.device("meta"):
        count = {size: TokenDiffusionForMaskedLM(configuration(size)).num_parameters() for size in SIZES}
    # beside the embedding and the head, which are counted twice where they are not one
    inner = {size: count[size] - 2 * vocabulary(size)[0] * configuration(size).hidden_size for size in SIZES}
    assert inner["110 M"] == pytest.approx(92e6, rel=0.1) and count["1 B"] == pytest.approx(1.2e9, rel=0.15)


def test_notes_survive_what_is_cut_off_and_become_tables(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.jsonl")
    notes.row("Speed", backend="torch", seconds=1.5)
    notes.row("Speed", backend="compile", seconds=0.5)
    notes.say("No time was left.")
    with notes.trying("a measurement"):
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")
    with notes.file.open("a", encoding="utf-8") as file:
        file.write('{"table": "Spe')
    found = Section("gpu", "On a GPU")
    part.add(found, notes.read())
    page = found.markdown("")
    assert "**Speed**\n\n| backend | seconds |" in page and "| compile | 0.500 |" in page and "No time" in page
    assert found.failures == ["a measurement: RuntimeError: CUDA error: an illegal memory access was encountered"]


def test_what_fails_or_hangs_is_told_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {
        "waits": ["-c", "import sys; sys.exit('the driver is gone')"],
        "rows": ["-c", "import time; time.sleep(600)"],
    }
    start = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        return start([sys.executable, *commands[command[3]]], **options)

    monkeypatch.setattr(part.subprocess, "Popen", popen)
    monkeypatch.setattr(part, "SECONDS", {"waits": 4, "rows": 4})
    monkeypatch.setattr(part, "LEAST_S", 1.0)
    arguments = make_parser().parse_args(["gpu", "--device", "cpu", "--quick", "--only", "waits", "rows"])
    found = part.section(arguments)
    assert found.failures[0] == "waits ended with 1: … the driver is gone"
    assert found.failures[1].startswith("rows took more than ")


def test_nothing_is_begun_when_time_is_over(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.jsonl")
    one.MEASURES["rows"](Setting("cpu", True, 0.0, 0.0), notes)
    assert [note["say"] for note in notes.read()] == ["No time was left for tiny."]


@pytest.mark.slow
@without_gpu
def test_measurements_run_on_the_cpu(tmp_path: Path) -> None:
    raw = tmp_path / "gpu.json"
    names = ["waits", "scale", "training"]
    arguments = ["gpu", "--device", "cpu", "--quick", "--raw", str(raw), "--only", *names]
    assert main(arguments) == 0
    measured = json.loads(raw.read_text("utf-8"))["measurements"]
    assert list(measured) == names
    for name, each in measured.items():
        assert each["code"] == 0 and any("row" in note for note in each["notes"]), name
