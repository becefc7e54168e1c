"""One table's work: the commands that a user would type, each run once, with what it took."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import ROOT
from .data import Data

Size = Literal["small", "full"]


class Failed(RuntimeError):
    """A command ended with an error; the message is its last lines."""


@dataclass
class Run:
    """Where the files are, where what is made goes, and how much is made.

    `commands` are those that were needed, as they would be typed in the repository, with the seconds that each took when it
    was run, in this call or in one before.
    """

    data: Data
    output: Path
    size: Size
    commands: list[tuple[str, float]] = field(default_factory=list)

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
        command = shlex.join(["python", "-m", *map(self._word, words)])
        record = self.output / "records" / f"{name.replace('/', '-')}.json"
        if record.exists() and (found := json.loads(record.read_text("utf-8")))["command"] == command:
            self.commands.append((command, found["seconds"]))
            return str(found["stdout"])
        start = time.perf_counter()
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
        print(command, file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise Failed(f"{command}\n{done.stderr[-2000:]}")
        record.parent.mkdir(parents=True, exist_ok=True)
        what = {"command": command, "seconds": seconds, "stdout": done.stdout}
        record.write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")
        self.commands.append((command, seconds))
        return done.stdout

    def _word(self, word: object) -> str:
        """A word of a command as a reader would type it: the data's folder as DATA, the output's as OUT."""
        text = str(word)
        for path, name in ((self.data.root, "DATA"), (self.output, "OUT")):
            text = text.replace(str(path), name)
        return text
