"""The card of a molecules demo: the samples as they came, what each is, shares counted by hand."""

from __future__ import annotations

import pytest

from benchmarks.results.qm9.card import block

pytest.importorskip("rdkit")


def test_a_card_has_the_samples_unpicked_and_what_they_are_worth() -> None:
    card = block(["OCC", "C(", "C1CC1", "C1CC1"], known={"CCO", "CC"})
    for part in (
        "the first 4 of seed 0",
        "--seq_len 32 --num_samples 4 --num_inference_steps none\n",
        f"    {'OCC':<32}in QM9\n    {'C(':<32}no molecule\n    {'C1CC1':<32}a molecule that is not in QM9\n",
        "| 4 | 75.0 ± 21.7 | 66.7 ± 27.2 | 50.0 ± 35.4 |",
        "not among the 2 of QM9",
        "MIT licence",
    ):
        assert part in card, part
