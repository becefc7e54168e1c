"""The notebook runs, on a kernel of its own, and what is kept of its outputs is what it gives."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parent.parent / "examples" / "denoising.ipynb"
MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def kept() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def shown(cell: NotebookNode) -> set[str]:
    """What kinds of things a cell has put out."""
    outputs = cell.get("outputs", ())
    return {kind for output in outputs for kind in output.get("data", {output.get("name", output.output_type): ""})}


def test_the_notebook_runs(kept: NotebookNode) -> None:
    fresh = deepcopy(kept)
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(fresh, timeout=240, kernel_name="python3", coalesce_streams=True, resources=where).execute()
    assert [shown(cell) for cell in fresh.cells] == [shown(cell) for cell in kept.cells]
    (ranked,) = (cell for cell in fresh.cells if "scores.ranking" in cell.source)
    nats = {text: float(number) for number, text in re.findall(r"([\d.]+) ± .* nats  (.*)", ranked.outputs[0].text)}
    right, broken = nats["the young cat loves a tired dog today."], nats["the young cats loves a tired dog today."]
    assert abs(right - 8.72) < 1.5 and broken > right + 1, "the law that it has learnt is another"


def test_what_is_kept_is_whole_light_and_of_no_machine(kept: NotebookNode) -> None:
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/png" in shown(cell) for cell in code) >= 4 and any("text/html" in shown(cell) for cell in code)
    assert NOTEBOOK.stat().st_size <= MAX_BYTES
    content = NOTEBOOK.read_text(encoding="utf-8")
    assert re.findall(r"(?:/home|/root|/Users|/tmp)/[\w/]+|Traceback", content) == []
