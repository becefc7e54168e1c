"""Under a table: by which commands its figures came about, at which commit, when, on what, and in what time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..environment import hardware, versions
from .run import Run

PACKAGES = ("torch", "transformers", "accelerate", "diffusers", "rdkit")


def provenance(run: Run) -> str:
    """A paragraph, and the commands in a block that is folded."""
    commands = run.commands
    threads = _each(each.threads or "threads as torch has them" for each in commands)
    said = (
        f"Size {run.size}; commit {_each(each.commit for each in commands)}; {_span([each.date for each in commands])}; "
        f"{hardware('cpu')}, {threads}, load average {_span([f'{each.load:.1f}' for each in commands], float)} as the "
        f"commands began. {versions(PACKAGES)}. Seed 0 where a command names no other."
    )
    clock, processor = (sum(getattr(each, name) for each in commands) for name in ("seconds", "cpu_seconds"))
    summary = f"{len(commands)} commands, {duration(clock)} ({duration(processor)} of the processor)"
    lines = [f"{each.command}  # {duration(each.seconds)}, {duration(each.cpu_seconds)}" for each in commands]
    return "\n\n".join(
        [said, f"<details><summary>{summary}</summary>", "\n".join(["```", *lines, "```"]), "</details>"]
    )


def duration(seconds: float) -> str:
    """As it is said: 12 s, 3 min, 1 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _each(values: Any) -> str:
    """The different ones, in their order."""
    return ", ".join(dict.fromkeys(values))


def _span(values: Sequence[str], key: Any = None) -> str:
    """The least and the greatest."""
    if not values:
        return "-"
    first, last = min(values, key=key), max(values, key=key)
    return first if first == last else f"{first} to {last}"
