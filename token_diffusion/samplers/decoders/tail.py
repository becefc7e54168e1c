"""The greedy tail: the last step of a grid takes the most probable token (MDLM's `noise_removal`, Duo's "greedy-tail").

Every position of the block that the network is then asked for, in uniform and hybrid that is every open one, takes the first of
the most probable tokens: a temperature of 0 in that step alone. It lowers the entropy, and the law is no longer the model's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import ParameterError
from ..options import Options, option
from ..parameters import SamplingParameters
from ..rows import R, SampleRows


@dataclass(frozen=True)
class TailOptions(Options):
    greedy_tail: bool = option(False, "the last step of each block's grid takes the most probable tokens")


@dataclass
class TailRows(SampleRows):
    """greedy_tail: bool [R]."""

    greedy_tail: Tensor


def check_tail(options: TailOptions, parameters: SamplingParameters) -> None:
    """Raises `ParameterError` for a greedy tail without a grid, which has no last step."""
    if options.greedy_tail and parameters.num_inference_steps is None:
        raise ParameterError("greedy_tail", "be false where num_inference_steps is null: there is no last step", True)


def tailed(rows: R, is_last: Tensor) -> R:
    """The same rows, those greedy that ask for it and for which `is_last`, bool [R]."""
    greedy: Tensor = rows.greedy_tail & is_last  # type: ignore[attr-defined]
    return replace(rows, temperature=torch.where(greedy, 0.0, rows.temperature)) if bool(greedy.any()) else rows
