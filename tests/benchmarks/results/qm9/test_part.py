"""What is asked for QM9's tables, and what becomes of the answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import Table
from benchmarks.results.data import Data
from benchmarks.results.qm9 import part as qm9
from benchmarks.results.run import Run

pytest.importorskip("rdkit")


class Files(Data):
    """A folder with files of its own."""

    def file(self, name: str) -> Path:
        return self.root / name


class Answers(Run):
    """Commands are noted, and answered at once."""

    asked: dict[str, list[str]]

    def trainer(self, name: str, command: str, *flags: object) -> Path:
        self.asked[name] = [command, *map(str, flags)]
        folder = self.output / name
        folder.mkdir(parents=True, exist_ok=True)
        process = "hybrid" if command == "hybrid" else "absorbing"
        (folder / "scheduler_config.json").write_text(json.dumps({"forward_process": process}))
        return folder

    def evaluate(self, name: str, *flags: object) -> dict[str, Any]:
        figures = {"nelbo": 0.5, "nelbo_error": 0.01, "num_tokens": 310, "num_sequences": 10}
        return {"num_parameters": 1234567, "validation": figures}

    def module(self, name: str, module: str, *flags: object) -> Mapping[str, Any]:
        self.asked[name] = [module, *map(str, flags)]
        samples = [{"text": text} for text in ("C1CC1", "C1CC1", "CCO", "C(")]
        return {"samples": samples, "usage": {"nfe": 7}, "num_parameters": 7654, "nats": 12.0, "nats_error": 0.5}


@pytest.fixture
def run(tmp_path: Path) -> Answers:
    """Ten molecules, the last with most rings, two of them held out."""
    (tmp_path / "qm9").mkdir()
    smiles = ["C" * n for n in range(1, 10)] + ["C1C2CC1C2"]
    rows = [f"{one}\t{index / 10}\t{3 if '1' in one else 0}" for index, one in enumerate(smiles)]
    (tmp_path / "qm9" / "qm9.tsv").write_text("smiles\tqed\trings\n" + "\n".join(rows))
    for name, lines in {"train": smiles[2:], "valid": smiles[:1], "test": smiles[1:2]}.items():
        (tmp_path / "qm9" / f"{name}.txt").write_text("\n".join(lines))
    found = Answers(Files(tmp_path), tmp_path / "out", "small")
    found.asked = {}
    return found


def test_labels_are_those_above_the_90th_percentile(run: Answers) -> None:
    assert qm9.values(run, "qed")[1] == pytest.approx(0.81)  # between 0.8 and 0.9, a tenth of the way
    with qm9.labels_file(run, qm9.PLANS["full"], "qed").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["smiles"] for row in rows] == ["C" * n for n in range(3, 10)] + ["C1C2CC1C2"], (
        "only the training molecules"
    )
    assert [row["label"] for row in rows] == ["0"] * 7 + ["1"]


def test_a_plan_of_fewer_molecules_reads_the_first_of_each_split(
    run: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert qm9.split(run, qm9.PLANS["full"], "train") == run.data.root / "qm9" / "train.txt", (
        "all of them: the file itself"
    )
    few = replace(qm9.PLANS["small"], molecules=3)
    monkeypatch.setitem(qm9.PLANS, "small", few)
    assert qm9.split(run, few, "train").read_text().split() == ["CCC", "CCCC", "CCCCC"]
    section = qm9.section(run)
    assert "there are 3)" in str(section.parts[0])
    read = [words[words.index("--train_file") + 1] for words in run.asked.values() if "--train_file" in words]
    assert {Path(file).parent for file in read} == {run.output / "qm9"}
    with Path(read[-1]).open() as file:
        assert [row["smiles"] for row in csv.DictReader(file)] == ["CCC", "CCCC", "CCCCC"]


def test_the_section_has_what_was_counted(run: Answers) -> None:
    section = qm9.section(run)
    free, guided = (part for part in section.parts if isinstance(part, Table))
    shares = "75.0 ± 21.7", "66.7 ± 27.2", "100.0 ± 0.0", 2  # one of the two molecules is written once
    assert free.rows[-1] == ("autoregressive", "7,654", "12.00 ± 0.50, exact", "-", "a token", *shares)
    assert free.rows[0][:5] == ("MDLM", "1,234,567", "≤ 15.50 ± 0.31", 16, 7)
    assert [row[3] for row in free.rows] == [16, "first-hitting", 16, "first-hitting", 16, 16, 16, "-"]
    rings = [row for row in guided.rows if row[0] == "rings"]
    assert rings[0][6] == "0.300 ± 0.300"
    assert rings[1][6] == "3.000" and rings[2][:3] == ("rings", "MDLM", "1")
    assert rings[2][6:] == ("0.500 ± 0.500", "26.7", "4.52"), "ours beside the authors'"


def test_what_is_asked_for(run: Answers) -> None:
    qm9.section(run)
    assert {"mdlm", "udlm", "hybrid"} <= {words[0] for words in run.asked.values()}
    assert all("--learn_end" in words for words in run.asked.values() if words[0] in {"mdlm", "udlm", "hybrid"})
    timed, untimed = (run.asked[f"qm9/{name}"] for name in ("udlm", "udlm-untimed"))
    assert [both for both in zip(timed, untimed, strict=True) if both[0] != both[1]] == [
        (qm9.SHAPE, f"{qm9.SHAPE},time_conditioning=none")
    ]
    demo = run.asked[f"qm9/{qm9.DEMO}"]
    assert f"{qm9.SHAPE},initializer_range=0.06" in demo and demo[-2:] == ["--save_dtype", "float16"]
    assert demo[demo.index("--max_train_steps") + 1] == "80"  # twice the small plan's
    guided = " ".join(run.asked["qm9/udlm-rings-3"])
    assert "--label 1 --guidance_scale 3" in guided and "--num_inference_steps 32" in guided
    assert run.asked["qm9/hybrid-16"][1] == "sample-hybrid" and "none" in run.asked["qm9/mdlm-first"]
    labels = run.asked["qm9/mdlm-qed"]
    assert labels[labels.index("--train_file") + 1] == str(run.output / "qm9" / "qed.csv")
