"""One table's work: the commands that a user would type, each run once, with what it took."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .. import ROOT
from ..environment import commit, thread_variables
from .data import Data

Size = Literal["small", "full"]


class Failed(RuntimeError):
    """A command ended with an error; the message is the command and the last lines that it said."""


@dataclass
class Command:
    """What was typed, and what came of it.

    `seconds` are those of the clock and `cpu_seconds` those of the processor (a run that is stopped for a while has few of
    them), of all attempts together. `load` is the machine's when it began. stdout: None where it was broken off.
    """

    command: str
    commit: str = field(default_factory=commit)
    date: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    threads: str = field(default_factory=lambda: " ".join(thread_variables()))
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stdout: str | None = None

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds what happens inside to its seconds."""
        start, cpu = time.perf_counter(), _children()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
            self.cpu_seconds += _children() - cpu


def _children() -> float:
    """Seconds of the processor that the processes took that this one has started, and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass
class Run:
    """Where the files are, where what is made goes, and how much is made.

    `commands` are those that were needed, as they would be typed in the repository, run in this call or in one before.
    """

    data: Data
    output: Path
    size: Size
    commands: list[Command] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    """The command of each name: one record cannot be of two."""

    def trainer(self, name: str, command: str, *flags: object) -> Path:
        """What `python -m trainer COMMAND` makes under `name` (the folder `output/name`), made once; its last folder.

        A run that was broken off goes on where it was.
        """
        folder = self.output / name
        more: list[object] = ["--output_dir", folder]
        if command != "tokenizer":
            more += ["--resume_from_checkpoint", "latest"]
        self._once(name, ["trainer", command, *flags, *more])
        return folder if command == "tokenizer" else folder / "final"

    def module(self, name: str, module: str, *flags: object) -> Any:
        """The JSON that `python -m MODULE` prints last, asked for once. `name` is that of its record."""
        text = self._once(name, [module, *flags])
        return json.loads(text[f"\n{text}".rindex("\n{") :])

    def evaluate(self, name: str, *flags: object) -> dict[str, Any]:
        """The JSON of `python -m trainer evaluate`, measured once."""
        text = self._once(name, ["trainer", "evaluate", *flags])
        found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
        return found

    def _once(self, name: str, words: list[object]) -> str:
        """The stdout of `python -m WORDS`; a record of the same words is read instead. Raises `Failed`."""
        typed = shlex.join(["python", "-m", *map(self._word, words)])
        record = self.output / "records" / f"{name.replace('/', '-')}.json"
        if self._names.setdefault(name, typed) != typed:
            raise ValueError(f"{name} is the name of {self._names[name]}, and cannot be that of {typed}")
        found = Command(**json.loads(record.read_text("utf-8"))) if record.exists() else Command(typed)
        if found.command != typed:
            found = Command(typed)
        if found.stdout is None:
            print(typed, file=sys.stderr, flush=True)  # its own messages are in the log beside the record
            record.parent.mkdir(parents=True, exist_ok=True)
            try:
                with found.timed():
                    found.stdout = _stdout(typed, words, record.with_suffix(".log"))
            finally:
                record.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
        if found.command not in [each.command for each in self.commands]:
            self.commands.append(found)
        return found.stdout

    def _word(self, word: object) -> str:
        """A word of a command as a reader would type it: the data's folder as DATA, the output's as OUT."""
        text = str(word)
        for path, name in ((self.data.root, "DATA"), (self.output, "OUT")):
            text = text.replace(str(path), name)
        return text


def _stdout(typed: str, words: list[object], log: Path) -> str:
    """Of the command, whose stderr goes into `log` as it is written. Raises `Failed`."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", *map(str, words)]
    with log.open("w", encoding="utf-8") as errors:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    if done.returncode:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise Failed("\n".join([typed, *said[-3:]]))
    return done.stdout
