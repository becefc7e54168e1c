"""Labels of documents: the cells of a column of integers or names, and the numbers that a network is told for them."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from token_diffusion.errors import ParameterError

from .files import TABLES, check_column, is_table, json_rows, kind, readable

FLAG = "label_column"
MOST = 4096
"""Different labels that are counted; more of them are rather texts or ids."""
MOST_SHOWN, MOST_CHARS = 8, 40
JSON = (".json", ".jsonl", ".ndjson")
INTEGER = re.compile(r"-?[0-9]{1,18}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Label(NamedTuple):
    """An integer or a name, and in words the row in which it stands."""

    value: int | str
    where: str


def as_label(cell: object, where: str) -> Label:
    """What is written as an integer is one. Raises `ParameterError` for an empty cell, a fraction, and what else is no label."""
    if isinstance(cell, str) and INTEGER.fullmatch(cell):
        return Label(int(cell), where)
    if isinstance(cell, str) and cell.strip() and not NUMBER.fullmatch(cell):
        return Label(cell, where)
    if isinstance(cell, int):
        return Label(int(cell), where)  # a truth value, too
    value = shown(cell) if cell is None or isinstance(cell, str | float) else type(cell).__name__
    raise ParameterError(FLAG, f"hold an integer or a name in each row ({where})", value)


def shown(value: Any) -> Any:
    """What is said of a label: in one line, and not all of a long one."""
    name = " ".join(value.split()) if isinstance(value, str) else value
    return f"{name[:MOST_CHARS]}…" if isinstance(name, str) and len(name) > MOST_CHARS else name


def read_labels(flag: str, path: Path, column: str) -> Iterator[object]:
    """The cells of a table's label column. Raises `ParameterError` for a file that has none."""
    if not is_table(path):
        raise ParameterError(FLAG, f"be left out for a text file, which has no columns ({path.name})", column)
    return _cells(flag, path, column)


def _cells(flag: str, path: Path, column: str) -> Iterator[object]:
    with readable(flag, path):
        try:
            if kind(path) in JSON:  # whose reader knows at the end only that no row has such a column
                _, row = next(json_rows(flag, path), (None, None))
                check_column(column, row if isinstance(row, dict) else {column: None}, FLAG)
            yield from TABLES[kind(path)](flag, path, column)
        except ParameterError as error:  # the readers know of one column, that of text
            name = FLAG if error.name == "text_column" else error.name
            raise ParameterError(name, error.rule, error.value) from error


def row_names(rows: Any, column: str) -> tuple[str, ...]:
    """The names that `datasets` has for the integers of its column, in their order; () where it has none."""
    names = getattr(rows.features.get(column), "names", None) or ()
    return tuple(names) if all(name.strip() and not NUMBER.fullmatch(name) for name in names) else ()


def row_labels(rows: Any, column: str) -> Iterator[object]:
    """The same of rows of `datasets`, integers by their names where it has some."""
    check_column(column, rows.column_names, FLAG)
    names = row_names(rows, column)
    for table in rows.select_columns([column]).with_format("arrow").iter(1000):
        for cell in table[column].to_pylist():
            yield names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else cell


@dataclass
class FoundLabels:
    """The labels of documents in their order: `codes` are places in `first`, which has each label once, and where it is first.

    order: of names, if not that of the alphabet.
    """

    order: Sequence[str] = ()
    codes: array[int] = field(default_factory=lambda: array("i"))
    first: dict[int | str, str] = field(default_factory=dict)
    _places: dict[int | str, int] = field(default_factory=dict)

    def add(self, label: Label) -> None:
        """Raises `ParameterError` where there are too many different ones, integers among names, or integers below 0."""
        value, where = label
        if value not in self._places:
            if len(self.first) == MOST:
                raise ParameterError(FLAG, f"hold at most {MOST:,} different labels ({where})", shown(value))
            if isinstance(value, int) and value < 0:
                raise ParameterError(FLAG, f"hold labels from 0 on ({where})", value)
            other = next(iter(self.first), value)
            if isinstance(value, str) != isinstance(other, str):
                rule = f"hold integers or names, and not both ({shown(other)!r} in {self.first[other]}, and {where})"
                raise ParameterError(FLAG, rule, shown(value))
            self._places[value], self.first[value] = len(self.first), where
        self.codes.append(self._places[value])

    @property
    def are_names(self) -> bool:
        return isinstance(next(iter(self.first), None), str)

    @property
    def names(self) -> list[str]:
        return list(self.order) or sorted(map(str, self.first))

    @property
    def num_classes(self) -> int:
        """How many a network has to know: all names, or one more than the highest integer. Raises `ParameterError`."""
        if self.are_names:
            return len(self.names)
        highest = max(value for value in self.first if isinstance(value, int))
        if highest >= MOST:
            rule = f"be below {MOST:,} where config_overrides does not give num_classes ({self.first[highest]})"
            raise ParameterError(FLAG, rule, highest)
        return highest + 1


@dataclass(frozen=True)
class Labels:
    """What a network is told for a label: integers below `num_classes` as they are, and for a name its number in `names`."""

    num_classes: int
    names: Mapping[str, int] | None = None

    @classmethod
    def known_to(cls, model: Any, num_classes: int) -> Labels:
        """Those of a model's folder: `id2label` in its config.json has the names, unless those are transformers' own."""
        by_id = getattr(model.config, "id2label", None) or {}
        names = {str(name): int(number) for number, name in by_id.items()}
        is_whole = sorted(names.values()) == list(range(num_classes))
        return cls(num_classes, names if is_whole and names != _unnamed(num_classes) else None)

    def naming(self, found: FoundLabels) -> Labels:
        """With the names of `found`, where it has some and none are known. Raises `ParameterError`."""
        if self.names is not None or not found.are_names:
            return self
        if len(names := found.names) > self.num_classes:
            rule = f"hold at most {self.num_classes} different labels, the num_classes of the network"
            raise ParameterError(FLAG, rule, len(names))
        rest = [name for name, number in _unnamed(self.num_classes).items() if number >= len(names)]
        return Labels(self.num_classes, {name: number for number, name in enumerate([*names, *rest])})

    def id_of(self, label: Label) -> int:
        """Raises `ParameterError` that names the row of a label that the network does not know."""
        value, where = label
        if isinstance(value, str):
            if self.names is None:
                rule = f"hold integers, as the network has no names for its labels ({where})"
                raise ParameterError(FLAG, rule, shown(value))
            if value not in self.names:
                rule = f"hold labels that the network knows, {self} ({where})"
                raise ParameterError(FLAG, rule, shown(value))
            return self.names[value]
        if not 0 <= value < self.num_classes:
            rule = f"hold labels from 0 to {self.num_classes - 1}, below the network's num_classes ({where})"
            raise ParameterError(FLAG, rule, value)
        return value

    def __str__(self) -> str:
        """In words, all of them or the first few."""
        if self.names is None:
            return f"integers below {self.num_classes}"
        first = [f"{shown(name)} = {number}" for name, number in list(self.names.items())[:MOST_SHOWN]]
        return ", ".join(first) + (f", … ({len(self.names)} in all)" if len(self.names) > MOST_SHOWN else "")


def _unnamed(count: int) -> dict[str, int]:
    """The names that transformers gives to labels that have none."""
    return {f"LABEL_{number}": number for number in range(count)}
