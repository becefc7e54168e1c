"""What the command line may find its stdout to be."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """A stdout that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class OldTerminal(Terminal):
    """One that knows ASCII alone."""

    encoding = "ascii"
