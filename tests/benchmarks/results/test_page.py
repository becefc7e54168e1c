"""The published page tells where its files come from, and holds full sizes alone."""

from __future__ import annotations

import re

from benchmarks.results.__main__ import PAGE, PARTS
from benchmarks.results.data import MD5


def test_every_file_has_its_checksum_and_its_source_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    assert dict(re.findall(r"^\| `(\S+)` \| `([0-9a-f]{32})` \|$", text, re.MULTILINE)) == MD5
    assert all(f"**`{name.partition('/')[0]}`**: " in text for name in MD5)


def test_sections_are_of_parts_that_there_are_at_full_size() -> None:
    _, *sections = re.split(r"^<!-- ([a-z]+) -->$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    assert set(sections[::2]) <= set(PARTS)
    assert all("\nSize full; commit " in section for section in sections[1::2])
