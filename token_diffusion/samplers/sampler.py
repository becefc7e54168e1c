"""What a sampler is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..randomness import Purpose, uniform
from ..rows import Rows
from ..shaping import inverse_cdf, probabilities


@dataclass(frozen=True)
class Plan:
    """The network's next task for R rows.

    positions: int64 [n], indices into the flattened [R * L] at which logits are needed. t: float64 [R], the network's time.
    step: int64 [R], the grid step, counted from 1, of each row's event.
    u_route: float64 [n], the draws already made at these positions, where the sampler makes any before the network.
    """

    positions: Tensor
    t: Tensor
    step: Tensor
    u_route: Tensor | None = None


class Sampler(Protocol):
    """Stateless: all that a sampler remembers is in the rows."""

    def check(self, num_inference_steps: int | None) -> None:
        """Raises `ParameterError` if the sampler has no such grid."""

    def prepare(self, rows: Rows) -> None:
        """Puts new rows at t = 1, in place."""

    def visible(self, rows: Rows) -> Tensor:
        """Positions the network may attend to, bool [R, L]."""

    def plan(self, rows: Rows) -> Plan:
        """Moves every row to just before its next event and says where the network is needed for it.

        Every row that is not finished gets at least one position.
        """

    def commit(self, rows: Rows, plan: Plan, logits: Tensor) -> Tensor:
        """Applies the events with logits [n, V], in place; returns the tokens int64 [n] now at the planned positions."""


def shaped(rows: Rows, row: Tensor, logits: Tensor, mask_token_id: int) -> Tensor:
    """theta [n, V] with each position's own temperature, top-k and top-p; a stage that no row uses is not computed."""
    temperature, top_k, top_p = rows.temperature[row], rows.top_k[row], rows.top_p[row]
    return probabilities(
        logits,
        mask_token_id,
        temperature if bool((temperature != 1).any()) else None,
        top_k if bool((top_k > 0).any()) else None,
        top_p if bool((top_p < 1).any()) else None,
    )


def draw(rows: Rows, row: Tensor, column: Tensor, theta: Tensor) -> Tensor:
    """Tokens int64 [n] from theta [n, V] by the rows' own randomness at their current step."""
    return inverse_cdf(theta, uniform(rows.seed[row], rows.sample[row], rows.step[row], column, Purpose.TOKEN))


def split(positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Flat positions -> (row, column)."""
    return torch.div(positions, length, rounding_mode="floor"), positions % length
