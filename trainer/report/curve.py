"""The loss curve of a run: a picture for its model card where matplotlib is installed, and a small table anyhow."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from itertools import pairwise

from ..output.journal import Record

NUM_ROWS = 8
FILE_NAME = "loss_curve.png"


def can_draw(history: Sequence[Record]) -> bool:
    """Whether `draw` gives a picture."""
    return find_spec("matplotlib") is not None and bool(_points(history, "nelbo"))


def draw(history: Sequence[Record]) -> bytes | None:
    """A PNG of NELBO over steps, training and validation (with two standard errors); None without matplotlib or points."""
    if not can_draw(history):
        return None
    training, validation = _points(history, "nelbo"), _points(history, "validation_nelbo")
    figure = import_module("matplotlib.figure").Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*training, strict=True), linewidth=1, label="training (mean since the log line before)")
    if validation:
        errors = [2 * (record.get("validation_error") or 0.0) for record in history if "validation_nelbo" in record]
        axes.errorbar(*zip(*validation, strict=True), yerr=errors, fmt="o-", capsize=3, label="validation (± 2 s.e.)")
    axes.set(xlabel="step", ylabel="NELBO (nats/token)")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def table(history: Sequence[Record], num_rows: int = NUM_ROWS) -> str:
    """Markdown: about `num_rows` steps of the history, evenly spread, the first and the last among them; empty without any."""
    steps = sorted({record["step"] for record in history})
    if not steps:
        return ""
    last = len(steps) - 1
    chosen = sorted({steps[round(last * row / max(num_rows - 1, 1))] for row in range(num_rows)})
    validated = {record["step"] for record in history if "validation_nelbo" in record}
    lines = ["| step | training NELBO | validation NELBO | learning rate |", "|---|---|---|---|"]
    starts = {step: before for before, step in pairwise([-1, *chosen])}
    for step in chosen:
        # The validation shown is the last one since the row above, so that none need be at a chosen step.
        within = [each for each in validated if starts[step] < each <= step]
        lines.append(_row(history, step, max(within, default=step)))
    return "\n".join(lines)


def _row(history: Sequence[Record], step: int, validated: int) -> str:
    training = _last(history, step, "nelbo")
    validation = _last(history, validated, "validation_nelbo")
    cells = [f"{step:,}", "", "", ""]
    if training is not None:
        cells[1], cells[3] = f"{training['nelbo']:.4f}", f"{training['lr']:.3g}"
    if validation is not None:
        error = validation.get("validation_error")
        cells[2] = f"{validation['validation_nelbo']:.4f}" + ("" if error is None else f" ± {error:.4f}")
        if validated != step:
            cells[2] += f" (step {validated:,})"
    return f"| {' | '.join(cells)} |"


def _last(history: Sequence[Record], step: int, name: str) -> Record | None:
    found = [record for record in history if record["step"] == step and name in record]
    return found[-1] if found else None


def _points(history: Sequence[Record], name: str) -> list[tuple[int, float]]:
    return [(record["step"], record[name]) for record in history if name in record]
