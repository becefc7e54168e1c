"""The three processes' commands: what each decides besides the flags that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat

from .training import TrainingConfig

AlphaSchedule = Literal["log_linear", "linear", "cosine", "geometric"]


class ScheduledConfig(TrainingConfig):
    """The schedule alpha(t)."""

    alpha_schedule: AlphaSchedule = "log_linear"
    """alpha(t), the probability that a token is clean at time t."""
    eps: float = Field(1e-3, gt=0, lt=1)
    """log_linear: alpha(t) = 1 - (1 - eps) t."""
    sigma_min: PositiveFloat = Field(1e-4, allow_inf_nan=False)
    """geometric: -log alpha at t = 0."""
    sigma_max: PositiveFloat = Field(20.0, allow_inf_nan=False)
    """geometric: -log alpha at t = 1."""


class MDLMConfig(ScheduledConfig):
    """Train an absorbing diffusion (MDLM): noise turns tokens into the mask token."""

    output_dir: Path = Path("mdlm-output")
    """checkpoint-N/ and final/ are written here, each a complete folder that serves."""
    estimator: Literal["time", "count"] = "time"
    """What is stratified over a step: the time t, each token masked with probability 1 - alpha(t) and weighed by
    -alpha'(t) / (1 - alpha(t)); or the count l of masked tokens among n, each weighed by n / l: the same bound with
    less variance (LLaDA). Validation and samples do not depend on it."""

    @property
    def process(self) -> str:
        return "absorbing"

    @property
    def counted(self) -> bool:
        return self.estimator == "count"


class UDLMConfig(ScheduledConfig):
    """Train a uniform diffusion (UDLM): noise turns tokens into uniformly drawn ones."""

    output_dir: Path = Path("udlm-output")
    """checkpoint-N/ and final/ are written here, each a complete folder that serves."""
    exclude_mask_from_uniform: bool = True
    """Noise never draws the mask token."""

    @property
    def process(self) -> str:
        return "uniform"


class HybridConfig(TrainingConfig):
    """Train a hybrid diffusion (GIDD): noise turns tokens into the mask token or uniformly drawn ones."""

    output_dir: Path = Path("hybrid-output")
    """checkpoint-N/ and final/ are written here, each a complete folder that serves."""
    p_uniform: float = Field(0.1, ge=0, lt=1)
    """Share of tokens that are uniform noise at t = 1/2."""
    gamma: float = Field(1.0, gt=0, le=2)
    """Exponent of the uniform noise's rise and fall over time."""
    t_eps: float = Field(1e-4, gt=0, lt=0.5)
    """Training draws t this far from 0 and 1. Validation and sampling know no such margin."""
    loss_weighting: Literal["elbo", "clip", "dynamic"] = "dynamic"
    """What is trained on: the NELBO (elbo), the NELBO with its weights cut off at 1 (clip), or GIDD's default (dynamic):
    2 on masks, 1 on noise, little on clean tokens. What is reported is the NELBO itself whatever this is."""

    @property
    def process(self) -> str:
        return "hybrid"

    @property
    def margin(self) -> float:
        return self.t_eps

    @property
    def weighting(self) -> str:
        return self.loss_weighting
