"""A file of JSON lines, one record a line, each with its `step`: what a run has logged, so that it outlives a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Journal:
    """Records in the order of their steps, in memory and in `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []

    def start(self, step: int = 0, source: Path | None = None) -> None:
        """Begins after `step`: keeps what `source` (this file itself by default) holds up to it, and drops the rest.

        A line that was cut off, by a crash while it was written, is dropped too.
        """
        self.records = [record for record in read(source or self.path) if record["step"] <= step]
        self.path.write_text(self.text(), encoding="utf-8")

    def append(self, record: Record) -> None:
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(record))

    def text(self) -> str:
        """The file."""
        return "".join(map(_line, self.records))


def read(path: Path) -> list[Record]:
    """The records of a file, none if it is not there."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
