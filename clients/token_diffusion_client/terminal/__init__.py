"""What the command line prints, and draws on a terminal by rich; it can be imported without, and then says what is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..cells import visible

if TYPE_CHECKING:
    from rich.console import Console

INSTALL = "pip install 'token-diffusion-client[terminal]'"


def say(*values: object, sep: str = " ") -> None:
    """Prints a line: to a pipe as it is, on a terminal with all that it would obey made visible."""
    line = sep.join(str(value) for value in values)
    print(visible(line) if sys.stdout.isatty() else line, flush=True)


def terminal() -> Console | None:
    """The terminal that stdout is; None where it is none, cannot move back or show a mask, or rich is not installed."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        print(f"to see it drawn: {INSTALL}", file=sys.stderr)
        return None
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    return None if console.is_dumb_terminal or console.options.ascii_only else console
