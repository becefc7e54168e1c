"""Tables on a terminal: scores by rank, a server's load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..cells import one_line, visible
from ..protocol.answers import Scores


def score_table(scores: Scores, texts: Sequence[str]) -> Group:
    """The best first: the one with the least nats."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("rank", "nats", "±", "bits/token", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("text")  # which alone gives way where it is narrow
    for rank, index in enumerate(scores.ranking, start=1):
        score = scores.scores[index]
        nats, error, bits = _shown(score.nats, 2), _shown(score.nats_error, 2, "?"), _shown(score.bits_per_token, 3)
        text = Text(one_line(texts[index]), no_wrap=True, overflow="ellipsis")
        table.add_row(str(rank), nats, error, bits, str(score.num_tokens), text)
    facts = (
        f"{visible(scores.model)} · {scores.num_times} noised versions each · {scores.estimator} · seed {scores.seed}"
    )
    return Group(table, Text(visible(facts), style="dim", no_wrap=True, overflow="ellipsis"))


def _shown(value: float | None, digits: int, none: str = "∞") -> str:
    return none if value is None else f"{value:.{digits}f}"


def figures(title: str, values: Mapping[str, Any]) -> Group:
    """Names and values, each in its line, below a title."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in values.items():
        table.add_row(one_line(name), Text(one_line(str(value))))
    return Group(Text(visible(title), style="bold", no_wrap=True, overflow="ellipsis"), table)
