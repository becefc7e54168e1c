"""Sample texts where people look at them: what a terminal or a page would obey is spelled out."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def visible(text: str) -> str:
    """The text with its control characters as Python writes them, `\\x1b`; tabs and ends of lines stay."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
