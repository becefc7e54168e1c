"""Self-correction (GIDD, arXiv 2503.04482): after ancestral sampling, what the network finds wrong in the text is rewritten.

The network, which has learnt that a token may be noise, is told a time just above 0 (`correction_t`). Each correction step draws
a token for every open position from softmax(logits / correction_temperature), and of those that differ from the text it writes
the `num_corrected` most probable ones. It is over when no draw differs; when the share of positions that hold the network's most
probable token has not risen for more than `patience` steps, the last of which writes nothing; or after `num_correction_steps`.

What law has it? None: the text moves towards one of the network's favourites. It is for models with uniform noise, uniform and
hybrid; one trained without (p_uniform = 0) takes every token for right.

Beside the authors' script: the share is that of the open positions, as nothing else can change; top_k, top_p and min_p hold for
these draws, too; with blocks the text is corrected once, as a whole, when the last of them is done. Of equally probable draws
the first positions change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..draws import Draws, draw, put, rank, split
from ..options import option
from ..parameters import SamplingParameters
from ..sampler import Logits, Outcome, Plan
from .tail import TailOptions, TailRows, tailed
from .thinning import Thinning


@dataclass(frozen=True)
class SelfCorrectionOptions(TailOptions):
    num_correction_steps: int = option(
        128, "steps of correction at most, an evaluation each", minimum=0, maximum=2**20
    )
    correction_temperature: float = option(0.1, "temperature of the draws of correction steps", minimum=0)
    correction_t: float = option(0.01, "time that the network is told in correction steps", above=0, maximum=1)
    patience: int = option(32, "correction ends after so many steps without more agreement", minimum=0)
    num_corrected: int = option(1, "positions rewritten in a correction step", minimum=1)


@dataclass
class SelfCorrectionRows(TailRows):
    """agreement: int64 [R], the most open positions so far that held the network's most probable token. stale: int64 [R], steps
    since it rose. The others are the options, [R] each.
    """

    CHANGING: ClassVar[tuple[str, ...]] = (*TailRows.CHANGING, "agreement", "stale")

    agreement: Tensor
    stale: Tensor
    correction_temperature: Tensor
    correction_t: Tensor
    patience: Tensor
    num_corrected: Tensor

    @property
    def correcting(self) -> Tensor:
        """Rows whose grid is done, bool [R]."""
        return self.step >= self.num_blocks * self.num_steps

    @property
    def blocks_final(self) -> Tensor:
        """None before the end: all are corrected."""
        return self.num_blocks * self.finished


class SelfCorrection(Thinning):
    """The sampler of the uniform and the hybrid process."""

    Options: ClassVar[type[SelfCorrectionOptions]] = SelfCorrectionOptions
    Rows: ClassVar[type[SelfCorrectionRows]] = SelfCorrectionRows

    def evaluations(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """Those of thinning, and one a correction step."""
        some = super().evaluations(tokens, parameters)
        return some + int(self.options(parameters).num_correction_steps) if some else 0

    def steps(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        some = super().steps(tokens, parameters)
        return some + int(self.options(parameters).num_correction_steps) if some else 0

    def columns(self, tokens: Sequence[int], parameters: SamplingParameters) -> dict[str, Any]:
        options = self.options(parameters)
        return super().columns(tokens, parameters) | {
            "agreement": 0,
            "stale": 0,
            "correction_temperature": float(options.correction_temperature),
            "correction_t": float(options.correction_t),
            "patience": options.patience,
            "num_corrected": options.num_corrected,
        }

    def plan(self, rows: SelfCorrectionRows) -> Plan:
        candidates, draws = self.search(rows)
        rows.finished.copy_(rows.step >= rows.last_step)
        correcting = rows.correcting & ~rows.finished
        candidates |= rows.open & correcting.unsqueeze(1)
        positions = candidates.flatten().nonzero().squeeze(1)
        t = torch.where(correcting, rows.correction_t, self.times(rows, rows.step.unsqueeze(1))[0].squeeze(1))
        return Plan(positions, t, draws.flatten()[positions])

    def commit(self, rows: SelfCorrectionRows, plan: Plan, logits: Logits) -> Outcome:
        correcting, number = rows.correcting, rows.step + 1
        row, _ = split(plan.positions, rows.tokens.shape[1])
        z = rows.tokens.view(-1)[plan.positions]
        hot = tailed(rows, number % rows.num_steps == 0)
        hot = replace(hot, temperature=torch.where(correcting, rows.correction_temperature, hot.temperature))
        drawn = draw(hot, plan, number, logits, self.vocabulary, with_best=True)
        corrected, ends = self._corrected(rows, row, plan.positions, z, drawn)
        tokens = torch.where(correcting[row], corrected, self.moved(rows, plan, number, drawn))
        logprob = torch.where(tokens == drawn.tokens, drawn.logprob, torch.nan)
        outcome = put(rows, plan.positions, number, tokens, logprob)
        rows.t.copy_(torch.where(correcting, 0.0, self.times(rows, rows.step.unsqueeze(1))[1].squeeze(1)))
        rows.finished.copy_((number >= rows.last_step) | (correcting & ends))
        rows.step.copy_(torch.where(rows.finished, rows.last_step, number))
        rows.blocks_done.copy_((rows.step // rows.num_steps).minimum(rows.num_blocks))
        rows.left.copy_(torch.minimum(rows.left - 1, rows.last_step - rows.step))
        return outcome

    def _corrected(
        self, rows: SelfCorrectionRows, row: Tensor, positions: Tensor, z: Tensor, drawn: Draws
    ) -> tuple[Tensor, Tensor]:
        """Tokens [n] after a correction step, and for which rows [R] it is the last; counts its agreement."""
        differs = drawn.tokens != z
        score, among = torch.zeros(rows.open.shape, dtype=torch.float64), torch.zeros_like(rows.open)
        score.view(-1)[positions], among.view(-1)[positions] = drawn.drawn, differs
        worst = among & (rank(-score, among) <= rows.num_corrected.unsqueeze(1))
        tokens = torch.where(worst.view(-1)[positions], drawn.tokens, z)
        agreement = torch.zeros_like(rows.agreement).index_add_(0, row, (tokens == drawn.best).long())
        correcting, rises = rows.correcting, agreement > rows.agreement
        rows.agreement.copy_(torch.where(correcting & rises, agreement, rows.agreement))
        rows.stale.copy_(torch.where(correcting & ~rises, rows.stale + 1, 0))
        is_stale = rows.stale > rows.patience
        return torch.where(is_stale[row], z, tokens), is_stale | ~among.any(1)
