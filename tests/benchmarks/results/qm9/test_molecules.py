"""Validity, uniqueness and novelty of molecules, counted by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.results.qm9.molecules import canonical, judged, known_molecules, main, qed, rings

pytest.importorskip("rdkit")

SAMPLES = ["CCO", "OCC", "C1CC1", "c1ccccc1", "", "C(", "C(C)(C)(C)(C)C", "c1ccc1C=", "CC", "CC"]
"""Ethanol twice, cyclopropane, benzene, ethane twice; four are no molecules (the third has a carbon with five bonds)."""


def test_shares_are_those_counted_by_hand() -> None:
    found = judged(SAMPLES, known={"CCO", "CC"})
    assert len(found.valid) == 6 and found.novel == ["C1CC1", "c1ccccc1"]
    assert found.validity.value == 6 / 10 and found.validity.error == pytest.approx(math.sqrt(0.6 * 0.4 / 10))
    assert found.uniqueness.value == 4 / 6
    assert found.novelty.value == 2 / 4 and found.novelty.error == pytest.approx(0.25)
    assert found.mean("rings").value == 1 and found.mean("rings").error == 0


def test_the_error_of_uniqueness_is_the_jackknifes() -> None:
    valid = ["A"] * 3 + ["B"] * 2 + list("CDEFG")
    left_out = [len(set(valid[:i] + valid[i + 1 :])) / (len(valid) - 1) for i in range(len(valid))]
    mean = sum(left_out) / len(left_out)
    jackknife = math.sqrt((len(valid) - 1) / len(valid) * sum((each - mean) ** 2 for each in left_out))
    smiles = dict(zip("ABCDEFG", ["C", "CC", "CCC", "CCCC", "CCCCC", "CCCCCC", "CCCCCCC"], strict=True))
    found = judged([smiles[each] for each in valid], known=())
    assert found.uniqueness.error * math.sqrt(10 / 9) == pytest.approx(jackknife)  # n for n - 1


def test_properties_of_molecules_that_are_known() -> None:
    assert [rings(smiles) for smiles in ("CCO", "C1CC1", "c1ccc2ccccc2c1", "C1C2CC1C2")] == [0, 1, 2, 3]
    assert qed("CC(=O)Oc1ccccc1C(=O)O") == pytest.approx(0.55, abs=0.01)  # aspirin, Bickerton et al. 2012
    assert canonical("OCC") == canonical("C(O)C") == "CCO" and canonical("c1cc") is None


def test_nothing_valid_has_no_shares() -> None:
    found = judged(["C("], known=())
    assert found.validity.value == 0
    assert all(math.isnan(each.value) for each in (found.uniqueness, found.novelty, found.mean("qed")))
    assert found.figures()["uniqueness"] is None


def test_the_command_reads_samples_and_known_molecules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, known = tmp_path / "samples.json", tmp_path / "known.tsv"
    samples.write_text(json.dumps({"samples": [{"text": text} for text in SAMPLES]}))
    known.write_text("index\tsmiles\n1\tOCC\n2\tCC\n")
    assert main([str(samples), "--known_file", str(known)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["num_valid"], figures["num_unique"], figures["num_novel"]) == (6, 4, 2)
    assert known_molecules(known) == {"CCO", "CC"}


@pytest.mark.parametrize("text", ["", "smiles\nC(\n"])
def test_a_file_without_molecules_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "known.tsv").write_text(text)
    with pytest.raises(ValueError, match="known_file must hold molecules as SMILES"):
        known_molecules(tmp_path / "known.tsv")
