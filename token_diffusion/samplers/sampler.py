"""What a sampler is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ..diffusion.shaping import inverse_cdf, probabilities
from .randomness import Purpose, uniform
from .rows import SampleRows


@dataclass(frozen=True)
class Plan:
    """The network's next task: a view of each of R rows, in their order.

    positions: int64 [n], ascending indices into the flattened [R * L] at which logits are needed. t: float64 [R], the network's
    time. tokens: int64 [R, L], what a view shows where that is not what the row holds.
    step: int64 [R], the grid step, counted from 1, of each row's event.
    u_route: float64 [n], the draws already made at these positions, where the sampler makes any before the network.
    """

    positions: Tensor
    t: Tensor
    step: Tensor | None = None
    u_route: Tensor | None = None
    tokens: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """What an evaluation changed: int64 [m] each, in the order of the rows. Its values are in fields of the rows."""

    row: Tensor
    column: Tensor
    token: Tensor

    @classmethod
    def none(cls) -> Self:
        """No token."""
        return cls(*(torch.empty(0, dtype=torch.int64) for _ in range(3)))


class Logits(Protocol):
    """Logits [n, V] as a sampler reads them, slice by slice from the first on: a tensor, or what has one piece at a time."""

    @property
    def device(self) -> torch.device: ...

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, some: slice, /) -> Tensor: ...


def slices(logits: Logits) -> Sequence[slice]:
    """In which all of them may be read, each once; a tensor in one."""
    return getattr(logits, "slices", [slice(None)])


class Sampler(Protocol):
    """What a kind of row needs. Stateless: all that a sampler remembers is in the rows, which are of the class that it makes.

    `parameters` are of its own kind, too.
    """

    def check(self, parameters: Any) -> None:
        """Raises `ParameterError` if the sampler cannot do this for its process."""

    def evaluations(self, tokens: Sequence[int], parameters: Any) -> int:
        """At most so many evaluations of the network, a view each, for one row; `tokens` [seq_len], negative where open."""

    def rows(self, tokens: Sequence[int], parameters: Any) -> Any:
        """New rows, to be planned."""

    def visible(self, rows: Any) -> Tensor:
        """Positions the network may attend to, bool [R, L]."""

    def plan(self, rows: Any) -> Plan:
        """Moves every row to just before its next event and says where the network is needed for it.

        Every row that is not finished then gets at least one position.
        """

    def commit(self, rows: Any, plan: Plan, logits: Logits) -> Outcome:
        """Applies the events with logits [n, V], in place.

        `left` of each row is what it may still need after this evaluation, `finished` that it needs none.
        A row for which the logits hold no distribution is marked as failed, and its tokens stay.
        """


MAX_ELEMENTS = {"cpu": 1 << 22}
"""Logits that are shaped together: shaping needs a few copies of them, which should neither fill the memory nor, on a CPU,
leave the cache."""


@dataclass(frozen=True)
class Draws:
    """What came of logits [n, V], on the CPU. tokens: int64 [n]. probability: float64 [n], the network's for the token there."""

    tokens: Tensor
    probability: Tensor


def draw(rows: SampleRows, plan: Plan, step: Tensor, logits: Logits, mask_token_id: int, forbidden: Tensor) -> Draws:
    """Tokens at the planned positions, by the rows' own shaping and their own randomness at `step` [R].

    No token is one of `forbidden`, int64 [k], or the mask. This is the tick's wait for the device. Positions without a
    distribution keep their token, and their row has failed.
    """
    row, column = split(plan.positions, rows.tokens.shape[1])
    z = rows.tokens.view(-1)[plan.positions]
    u = uniform(rows.seed[row], rows.sample[row], step[row], column, Purpose.TOKEN)
    count = max(1, MAX_ELEMENTS.get(logits.device.type, 1 << 28) // logits.shape[1])
    never = forbidden.to(logits.device) if forbidden.numel() else None
    parts = []
    for start in range(0, len(z), count):
        some = slice(start, start + count)
        piece = logits[some] if never is None else logits[some].index_fill(-1, never, -torch.inf)
        theta = _shaped(rows, row[some], piece, mask_token_id)
        there = theta.gather(-1, z[some].to(theta.device).unsqueeze(-1)).squeeze(-1)
        parts.append(torch.stack([inverse_cdf(theta, u[some].to(theta.device)).double(), there.double()]))
    tokens, probability = torch.cat(parts, dim=1).cpu()
    lost = tokens < 0
    rows.failed[row[lost]] = True
    return Draws(torch.where(lost, z, tokens.long()), probability.nan_to_num(0.0))


def _shaped(rows: SampleRows, row: Tensor, logits: Tensor, mask_token_id: int) -> Tensor:
    """theta [n, V] with each position's own temperature, top-k, top-p and min-p; a stage that no row uses is not computed."""
    temperature, top_k, top_p, min_p = rows.temperature[row], rows.top_k[row], rows.top_p[row], rows.min_p[row]
    max_top_k = int(top_k.max())
    return probabilities(
        logits,
        mask_token_id,
        temperature.to(logits.device) if bool((temperature != 1).any()) else None,
        top_k.to(logits.device) if max_top_k > 0 else None,
        top_p.to(logits.device) if bool((top_p < 1).any()) else None,
        min_p.to(logits.device) if bool((min_p > 0).any()) else None,
        max_top_k,
    )


def split(positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Flat positions -> (row, column)."""
    return torch.div(positions, length, rounding_mode="floor"), positions % length


def put(rows: SampleRows, plan: Plan, tokens: Tensor) -> Outcome:
    """Writes tokens [n] to the planned positions, and into the step map the steps of those that change."""
    assert plan.step is not None
    before = rows.tokens.view(-1)[plan.positions]
    rows.tokens.view(-1)[plan.positions] = tokens
    changed = tokens != before
    row, column = split(plan.positions[changed], rows.tokens.shape[1])
    rows.step_map[row, column] = plan.step[row]
    return Outcome(row, column, tokens[changed])


def rank(key: Tensor, among: Tensor) -> Tensor:
    """1-based rank of each key within its row, counting only positions in `among`; [R, L] -> int64 [R, L]."""
    order = torch.where(among, key, torch.inf).argsort(dim=1, stable=True)
    ranks = torch.arange(1, key.shape[1] + 1, device=key.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks)
