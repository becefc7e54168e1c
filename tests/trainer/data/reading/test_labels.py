"""Labels of rows: which cells are some, what a network is told for them, and how what is none is named."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset

from token_diffusion.errors import ParameterError
from trainer.data.reading import labels
from trainer.data.reading.documents import Documents, labelled_pieces, read_pieces
from trainer.data.reading.labels import FoundLabels, Label, Labels, as_label, row_labels, row_names


def found_in(values: Sequence[int | str]) -> FoundLabels:
    found = FoundLabels()
    for index, value in enumerate(values):
        found.add(Label(value, f"row {index + 1}"))
    return found


def documents(path: Path, column: str = "kind") -> Documents:
    return Documents(lambda: read_pieces("train_file", [(0, path)], packing=False, label_column=column))


@pytest.mark.parametrize(
    ("cell", "value"),
    [(3, 3), ("3", 3), ("-1", -1), (True, 1), ("pos", "pos"), ("4 stars", "4 stars"), (" x", " x"), ("n/a", "n/a")],
)
def test_cells_that_are_labels(cell: object, value: int | str) -> None:
    assert as_label(cell, "row 1") == Label(value, "row 1")


@pytest.mark.parametrize("cell", [None, "", "  ", 1.0, 0.5, "0.5", "1e3", "9" * 30, float("nan"), [1], {"a": 1}])
def test_cells_that_are_none_are_named_by_their_row(cell: object) -> None:
    with pytest.raises(
        ParameterError, match=r"label_column must hold an integer or a name in each row \(row 7 of a\)"
    ):
        as_label(cell, "row 7 of a")


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0]])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        Dataset.from_list(list(rows)).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS: list[dict[str, object]] = [
    {"text": "one", "kind": "b"},
    {"text": "  ", "kind": None},  # no document, so its label is not asked for
    {"text": "two", "kind": "a"},
    {"text": "three", "kind": "b"},
]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_label_goes_with_its_text_in_every_kind_of_table(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, ROWS)
    found = documents(path).survey.labels
    assert found is not None and found.first == {"b": f"row 1 of {name}", "a": f"row 3 of {name}"}
    told = Labels(2).naming(found)
    assert told.names == {"a": 0, "b": 1}
    assert documents(path).label_ids(told).tolist() == [1, 0, 1]
    with pytest.raises(ParameterError, match=r"label_column must be one of the columns text, kind, got 'sort'"):
        assert documents(path, "sort").survey


def test_a_part_of_documents_has_the_labels_of_that_part() -> None:
    cells = [0, 1, 2, 3, 4]
    whole = Documents(lambda: labelled_pieces("abcde", cells, "split train"))
    first, last = whole.split(40, "documents")
    assert first.label_ids(Labels(5)).tolist() == [0, 1, 2] and last.label_ids(Labels(5)).tolist() == [3, 4]


def test_a_data_set_may_have_names_for_its_integers() -> None:
    rows = Dataset.from_dict({"text": list("abcde"), "kind": [0, 1, 1, None, -1], "number": [0, 1, 2, 3, 4]})
    kinds = rows.cast_column("kind", ClassLabel(names=["up", "down"]))
    assert list(row_labels(rows, "kind")) == [0, 1, 1, None, -1] and row_names(rows, "kind") == ()
    assert list(row_labels(kinds, "kind")) == ["up", "down", "down", None, -1]
    stars = rows.cast_column("number", ClassLabel(names=list("12345")))  # whose numbers would be taken for their names
    assert list(row_labels(stars, "number")) == [0, 1, 2, 3, 4] and row_names(stars, "number") == ()
    found = FoundLabels(row_names(kinds, "kind"))
    found.add(Label("down", "row 2"))
    assert found.num_classes == 2 and Labels(2).naming(found).names == {"up": 0, "down": 1}
    assert Labels(2, {"down": 0, "up": 1}).naming(found).id_of(Label("down", "row 2")) == 0


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        (["a", None], r"hold an integer or a name in each row \(row 2 of a.jsonl\), got None"),
        ([0, 0.5], r"hold an integer or a name in each row \(row 2 of a.jsonl\), got 0.5"),
        ([0, "a"], r"hold integers or names, and not both \(0 in row 1 of a.jsonl, and row 2 of a.jsonl\), got 'a'"),
        ([1, -1], r"hold labels from 0 on \(row 2 of a.jsonl\), got -1"),
    ],
)
def test_what_cannot_be_a_column_of_labels(rows: Sequence[object], rule: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x", "kind": each} for each in rows])
    with pytest.raises(ParameterError, match=f"label_column must {rule}"):
        assert documents(path).survey


def test_text_files_have_no_labels(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(
        ParameterError, match=r"label_column must be left out for a text file, .*\(a.txt\), got 'kind'"
    ):
        assert documents(tmp_path / "a.txt").survey


def test_a_network_has_to_know_as_many_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_in(["b", "a", "b"]).num_classes == 2
    assert found_in([4, 0, 4]).num_classes == 5
    monkeypatch.setattr(labels, "MOST", 3)
    assert found_in([0, 2, 1, 0]).num_classes == 3
    with pytest.raises(ParameterError, match=r"be below 3 where .* num_classes \(row 2\), got 3"):
        assert found_in([0, 3]).num_classes
    with pytest.raises(ParameterError, match=r"hold at most 3 different labels \(row 4\), got 'd'"):
        found_in(["a", "b", "c", "d"])


def test_what_a_network_is_told() -> None:
    assert Labels(3).id_of(Label(2, "row 1")) == 2
    for value in (-1, 3):
        with pytest.raises(ParameterError, match=rf"from 0 to 2, .* \(row 9\), got {value}"):
            Labels(3).id_of(Label(value, "row 9"))
    with pytest.raises(ParameterError, match=r"hold integers, .* \(row 9\), got 'a'"):
        Labels(3).id_of(Label("a", "row 9"))
    named = Labels(3).naming(found_in(["b", "a"]))
    assert named.names == {"a": 0, "b": 1, "LABEL_2": 2}
    assert named.id_of(Label("b", "row 1")) == named.id_of(Label(1, "row 1")) == 1
    with pytest.raises(ParameterError, match=r"that the network knows, a = 0, b = 1, LABEL_2 = 2 \(row 9\), got 'c'"):
        named.id_of(Label("c", "row 9"))
    assert str(Labels(2, {"a\nb" + "c" * 99: 0, "d": 1})) == f"a b{'c' * 37}… = 0, d = 1"
    with pytest.raises(ParameterError, match="hold at most 2 different labels, the num_classes of the network, got 3"):
        Labels(2).naming(found_in(["a", "b", "c"]))


@pytest.mark.parametrize(
    ("names", "known"),
    [
        ({0: "up", 1: "down"}, {"up": 0, "down": 1}),
        ({0: "LABEL_0", 1: "LABEL_1"}, None),  # what transformers writes where nobody named any
        ({0: "up"}, None),
        ({0: "up", 1: "up"}, None),
        (None, None),
    ],
)
def test_a_folder_may_have_names(names: dict[int, str] | None, known: dict[str, int] | None) -> None:
    model = SimpleNamespace(config=SimpleNamespace(id2label=names))
    labels_of_folder = Labels.known_to(model, 2)
    assert labels_of_folder == Labels(2, known)
    again = labels_of_folder.naming(found_in(["down", "up"]))
    assert again.names == (known or {"down": 0, "up": 1})


def test_many_labels_are_coded_in_order() -> None:
    values = np.random.default_rng(0).integers(0, 50, 500).tolist()
    found = found_in(values)
    assert [list(found.first)[code] for code in found.codes] == values
