"""What a benchmark writes: Markdown sections in one file, each of which says where its own figures came from."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HEADER = """# Benchmarks

Written by `python -m benchmarks`; edit no figure by hand. Each section says by which command, on what and when it was
measured, so that sections measured at different times can stand side by side. Ratios are medians over rounds in which
all sides ran in turn in one process (or against servers on the same machine): noise of the machine meets all of them.
"""


@dataclass
class Table:
    """Columns and rows; a float is written with three significant digits."""

    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        """One row, which must have a cell for each column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"a row must have {len(self.columns)} cells, got {len(cells)}")
        self.rows.append(cells)

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *([text(cell) for cell in row] for row in self.rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass
class Section:
    """One part of the page: paragraphs and tables in their order; `failures` are what must not have been found."""

    name: str
    title: str
    parts: list[str | Table] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def markdown(self, provenance: str) -> str:
        body = [part.markdown() if isinstance(part, Table) else part for part in self.parts]
        failures = [f"**Failed:** {failure}" for failure in self.failures]
        return "\n\n".join([f"{_anchor(self.name)}\n## {self.title}", *body, *failures, provenance]) + "\n"


def text(cell: object) -> str:
    """A cell as the table shows it."""
    if not isinstance(cell, float):
        return str(cell)
    if not math.isfinite(cell):
        return "-" if math.isnan(cell) else str(cell)
    if cell == 0 or abs(cell) >= 100:
        return f"{cell:.0f}"
    return f"{cell:.{max(0, 2 - math.floor(math.log10(abs(cell))))}f}"


def _anchor(name: str) -> str:
    return f"<!-- {name} -->"


def merged(page: str, name: str, section: str) -> str:
    """The page with its section `name` replaced by `section`, or `section` added at its end."""
    starts = [match.start() for match in re.finditer(r"^<!-- \S+ -->$", page, re.MULTILINE)]
    parts = [page[start:end] for start, end in zip([0, *starts], [*starts, len(page)], strict=True)]
    for index, part in enumerate(parts):
        if part.startswith(_anchor(name)):
            parts[index] = section
            break
    else:
        parts.append(section)
    return "\n".join(part.strip("\n") + "\n" for part in parts if part.strip("\n"))


def write(path: Path, name: str, section: str, header: str = HEADER) -> None:
    """Put a section into the file, which begins with `header` if it is not there."""
    page = path.read_text(encoding="utf-8") if path.exists() else header
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(merged(page, name, section), encoding="utf-8")
