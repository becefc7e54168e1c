"""The command line: settings classes whose fields are flags, the names that other trainers give them, mistakes in one line."""

from __future__ import annotations

from .launcher import launched
from .parser import describe, read
from .settings import CommandLine, refuse
from .spelling import spelled

__all__ = ["CommandLine", "describe", "launched", "read", "refuse", "spelled"]
