"""`python tests/training_runs.py < RUNS.json`: training runs one after the other, each in a process of its own that can be
killed at a chosen moment. They are forked from one process that has imported everything, so a run costs its own time only; and
they draw no curve, as where matplotlib is not installed: it would be most of that time, and is another test's matter.

RUNS is a list of {"arguments": [...], "kill_at": [function, call, "before" | "after" | "torn"] | null, "kill_after": seconds |
null, "signal": number}. Prints the list of {"exit": code, negative for the signal that killed it, "stderr": text}.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple


class Result(NamedTuple):
    exit: int
    stderr: str


def forked(runs: list[dict[str, Any]]) -> list[Result]:
    """The results of these runs, by this program."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(runs),
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [Result(**result) for result in json.loads(done.stdout)]


def arm(number: int, function: str, call: int, moment: str) -> None:
    """Has the `call`-th call of `function` (module:attribute.attribute) send this process the signal."""
    module, path = function.split(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for attribute in owners:
        owner = getattr(owner, attribute)
    original, calls = getattr(owner, name), 0

    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return original(*args, **options)
        if moment == "torn":  # the first half of what torch.save would have written
            content = pickle.dumps(args[0])
            with open(args[1], "wb") as file:
                file.write(content[: len(content) // 2])
        result = original(*args, **options) if moment == "after" else None
        os.kill(os.getpid(), number)
        return result if moment == "after" else original(*args, **options)

    setattr(owner, name, wrapped)


def child(run: dict[str, Any], output: int) -> None:
    """The run itself; never returns."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    from trainer.__main__ import main

    if run.get("kill_at"):
        arm(run.get("signal", signal.SIGKILL), *run["kill_at"])
    code = 70
    try:
        code = main(run["arguments"])
    finally:
        sys.stderr.flush()
        os._exit(code)


def one(run: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            child(run, output.fileno())
        if run.get("kill_after") is not None:
            time.sleep(run["kill_after"])
            os.kill(pid, run.get("signal", signal.SIGKILL))
        _, status = os.waitpid(pid, 0)
        output.seek(0)
        return {"exit": os.waitstatus_to_exitcode(status), "stderr": output.read().decode(errors="replace")}


if __name__ == "__main__":
    import torch
    import torch.utils.tensorboard
    import transformers.models.bert.modeling_bert  # noqa: F401

    import trainer.evaluation.evaluate
    import trainer.run.train  # noqa: F401

    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    torch.set_num_threads(1)
    print(json.dumps([one(run) for run in json.load(sys.stdin)]))
