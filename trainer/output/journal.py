"""A file of JSON lines, one record a line, each with its `step`: what a run has logged, so that it outlives a resume."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from .files import write_whole

logger = logging.getLogger(__name__)

Record = dict[str, Any]

HISTORY = "history.jsonl"
"""What a run has logged and validated; each saved folder carries it up to its step."""


class Journal:
    """Records in the order of their steps, in memory and in `path`.

    A file that cannot be written, as on a full disk, costs a warning and not the run; it is made up for when it can be again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._is_behind = False

    def start(self, step: int = 0, source: Path | None = None) -> None:
        """Begins after `step`: keeps what `source` (this file itself by default) holds up to it, and drops the rest.

        A line that was cut off, by a crash while it was written, is dropped too.
        """
        self.records = [record for record in read(source or self.path) if record["step"] <= step]
        self._write(None)

    def append(self, record: Record) -> None:
        self.records.append(record)
        self._write(record)

    def text(self) -> str:
        """The file."""
        return "".join(map(_line, self.records))

    def _write(self, added: Record | None) -> None:
        """The record that was added; all of them at the start, and after a failure, which may have left half a line."""
        try:
            if added is None or self._is_behind:
                write_whole(self.path, self.text())
            else:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(_line(added))
            self._is_behind = False
        except OSError as error:
            if not self._is_behind:
                logger.warning("%s could not be written (%s): the run goes on", self.path, error.strerror)
            self._is_behind = True


def read(path: Path) -> list[Record]:
    """The records of a file up to the first line that is none; none if it is not there."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        try:
            records.append(json.loads(line.decode("utf-8")))
        except ValueError:  # a line that was cut off, perhaps inside a character
            break
    return records


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
