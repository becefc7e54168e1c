"""What the command line draws on a terminal, by rich; it can be imported without, and then says what is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

INSTALL = "pip install 'token-diffusion-client[terminal]'"


def terminal() -> Console | None:
    """The terminal that stdout is; None where it is none, or rich is not installed."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        print(f"to see it drawn: {INSTALL}", file=sys.stderr)
        return None
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
