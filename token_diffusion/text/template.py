"""Chat templates, which come with a folder and are programs: transformers renders them, in a process that can be ended.

Jinja's sandbox keeps a template from files and attributes, not from loops without end and strings without bound. So they are
rendered by a child of this process, which has so many seconds of the processor and so much memory for each. It is started with
the first conversation, ends with us, and is started anew after a template that it did not survive.

This file is the child's program, too: it imports nothing of ours, and no torch.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

SECONDS = 2.0
"""Of the processor, for one conversation; a few thousand messages take less than a tenth of one."""

MEMORY = 1 << 29
"""Bytes of address space of the child, of which it has a third from the beginning."""

CHARACTERS = 1 << 22
"""Of a conversation as a template writes it."""


class TemplateError(ValueError):
    """A template did not render a conversation: it refuses it, is broken, or takes too much."""


class Renderer:
    """Renders conversations, one at a time, whichever threads ask.

    Args:
        seconds: of the processor for each.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._children: dict[int, subprocess.Popen[str]] = {}  # by whose it is: a fork of us has its own
        atexit.register(self.close)

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, str]],
        names: Mapping[str, Any],
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """`messages` as `template` writes them, up to where the assistant's next one begins.

        Args:
            names: what else the template may use; transformers gives it the special tokens.
            add_generation_prompt: whether there is to be a next one.

        Raises:
            TemplateError: it does not.
        """
        names = {**names, "add_generation_prompt": add_generation_prompt}
        asked = json.dumps({"template": template, "messages": messages, "names": names, "seconds": self.seconds})
        with self._lock:
            answer = self._ask(asked)
        if "error" in answer:
            raise TemplateError(answer["error"])
        return str(answer["text"])

    def close(self) -> None:
        """The child ends; one that is asked afterwards is another."""
        child = self._children.pop(os.getpid(), None)
        if child is not None:
            child.kill()
            child.communicate()

    def _ask(self, asked: str) -> dict[str, Any]:
        child = self._children.get(os.getpid()) or self._children.setdefault(os.getpid(), _start())
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(f"{asked}\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:  # somebody has ended it
            line = ""
        if line:
            return dict(json.loads(line))
        self.close()
        if child.returncode == -signal.SIGPROF:
            return {"error": f"it takes more than {self.seconds:g} seconds"}
        return {"error": f"the process that renders it ended with {child.returncode}"}


RENDERER = Renderer()
"""The one of this process."""


def _start() -> subprocess.Popen[str]:
    few_threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # each would have its address space
    return subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env=os.environ | few_threads,
        start_new_session=True,  # Ctrl-C is ours
    )


def _serve() -> None:
    """What the child does: a line of JSON for each line of JSON, until there are no more."""
    import resource

    from transformers.utils.chat_template_utils import render_jinja_template

    with contextlib.suppress(ValueError, OSError):  # where less is allowed already, or no such limit is known
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        asked = json.loads(line)
        # The signal's own action, death, needs no bytecode to be reached: a power of two huge numbers has none.
        signal.setitimer(signal.ITIMER_PROF, asked["seconds"])
        try:
            answer = {"text": _rendered(render_jinja_template, asked)}
        except Exception as error:
            answer = {"error": str(error) if type(error).__name__ == "TemplateError" else _named(error)}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


def _rendered(render: Any, asked: dict[str, Any]) -> str:
    options = {"tools": None, "documents": None, **asked["names"]}
    (text,), _ = render(conversations=[asked["messages"]], chat_template=asked["template"], **options)
    if len(text) > CHARACTERS:
        raise MemoryError(f"it writes more than {CHARACTERS} characters")
    return str(text)


def _named(error: Exception) -> str:
    """An error that the template did not raise by itself."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


if __name__ == "__main__":
    _serve()
