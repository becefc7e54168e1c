"""What a sampler is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..diffusion.shaping import inverse_cdf, probabilities
from .randomness import Purpose, uniform
from .rows import Rows


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

    def evaluations(self, in_block: Sequence[int], num_inference_steps: int | None) -> int:
        """At most so many evaluations of the network for a row with so many open positions in each of its blocks."""

    def prepare(self, rows: Rows) -> None:
        """Puts new rows at t = 1, in place."""

    def visible(self, rows: Rows) -> Tensor:
        """Positions the network may attend to, bool [R, L]."""

    def plan(self, rows: Rows) -> Plan:
        """Moves every row to just before its next event and says where the network is needed for it.

        Every row that is not finished gets at least one position.
        """

    def commit(self, rows: Rows, plan: Plan, logits: Tensor) -> Tensor:
        """Applies the events with logits [n, V], in place; returns the tokens int64 [n] now at the planned positions.

        `left` of each row is what it may still need after this evaluation.
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


def draw(rows: Rows, plan: Plan, step: Tensor, logits: Tensor, mask_token_id: int) -> Draws:
    """Tokens at the planned positions, by the rows' own shaping and their own randomness at `step` [R].

    This is the tick's one wait for the device. Positions without a distribution keep their token, and their row has failed.
    """
    row, column = split(plan.positions, rows.tokens.shape[1])
    z = rows.tokens.view(-1)[plan.positions]
    u = uniform(rows.seed[row], rows.sample[row], step[row], column, Purpose.TOKEN)
    count = max(1, MAX_ELEMENTS.get(logits.device.type, 1 << 28) // logits.shape[1])
    parts = []
    for start in range(0, len(z), count):
        some = slice(start, start + count)
        theta = _shaped(rows, row[some], logits[some], mask_token_id)
        there = theta.gather(-1, z[some].to(theta.device).unsqueeze(-1)).squeeze(-1)
        parts.append(torch.stack([inverse_cdf(theta, u[some].to(theta.device)).double(), there.double()]))
    tokens, probability = torch.cat(parts, dim=1).cpu()
    lost = tokens < 0
    rows.failed[row[lost]] = True
    return Draws(torch.where(lost, z, tokens.long()), probability.nan_to_num(0.0))


def _shaped(rows: Rows, row: Tensor, logits: Tensor, mask_token_id: int) -> Tensor:
    """theta [n, V] with each position's own temperature, top-k and top-p; a stage that no row uses is not computed."""
    temperature, top_k, top_p = rows.temperature[row], rows.top_k[row], rows.top_p[row]
    max_top_k = int(top_k.max())
    return probabilities(
        logits,
        mask_token_id,
        temperature.to(logits.device) if bool((temperature != 1).any()) else None,
        top_k.to(logits.device) if max_top_k > 0 else None,
        top_p.to(logits.device) if bool((top_p < 1).any()) else None,
        max_top_k,
    )


def split(positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Flat positions -> (row, column)."""
    return torch.div(positions, length, rounding_mode="floor"), positions % length
