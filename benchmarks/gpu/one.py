"""One measurement, in this process: `python -m benchmarks.gpu.one NAME SETTING FILE`, as `part` starts it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from token_diffusion.networks.cpu.memory import prepare
from token_diffusion.networks.cpu.threads import set_threads

from . import checks, serving, speed, training, waits
from .notes import Notes, Setting

MEASURES: dict[str, Callable[[Setting, Notes], None]] = {
    "tests": checks.tests,
    "seeds": checks.seeds,
    "waits": waits.waits,
    "rows": speed.rows,
    "scale": speed.scale,
    "samplers": speed.samplers,
    "training": training.training,
    "compiled": training.compiled_training,
    "server": serving.server,
}
"""In the order in which they are made: what matters most first, if time should run out."""


def main(arguments: Sequence[str]) -> int:
    name, setting, file = arguments
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    disable_progress_bar()
    prepare()
    set_threads(None)
    notes = Notes(Path(file))
    with notes.trying(name):
        MEASURES[name](Setting(**json.loads(setting)), notes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
