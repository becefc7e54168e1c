"""The flags that say how the weights move."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from ..command_line import CommandLine, refuse

# The names of transformers.get_scheduler that need no arguments beyond the two step counts.
LRScheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]


class OptimizerFlags(CommandLine):
    """The optimizer."""

    optim: Literal["adamw_torch", "adamw_torch_fused", "adafactor"] = "adamw_torch"
    """AdamW, AdamW in one piece of code (sooner where there are many small matrices), or Adafactor (less memory)."""
    learning_rate: PositiveFloat = Field(5e-5, allow_inf_nan=False)
    """Highest learning rate."""
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    """For matrices; biases and norms are not decayed."""
    lr_scheduler: LRScheduler = "cosine"
    """Shape of the learning rate over the steps."""
    lr_warmup_steps: int = Field(100, ge=0)
    """Steps over which the learning rate rises to its highest value."""
    lr_warmup_ratio: float | None = Field(None, ge=0, le=1)
    """Instead of lr_warmup_steps: the share of all steps."""
    max_grad_norm: PositiveFloat = Field(1.0, allow_inf_nan=False)
    """Gradients are scaled down to this norm."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the first moment."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW's decay of the second moment."""
    adam_epsilon: PositiveFloat = Field(1e-8, allow_inf_nan=False)
    """AdamW's epsilon."""
    ema_decay: float = Field(0, ge=0, lt=1)
    """Keep a moving average of the weights (0.9999 is usual); validation and saved folders then use it. 0: off."""

    @property
    def optimizer(self) -> str:
        """In words."""
        rate = f"learning rate {self.learning_rate:g}, {self.lr_scheduler}, after {self.lr_warmup_steps:,} steps of warm-up"
        return f"`{self.optim}`, {rate}; weight decay {self.weight_decay:g}, gradients scaled down to {self.max_grad_norm:g}"

    @model_validator(mode="after")
    def _one_optimizer(self) -> OptimizerFlags:
        given = self.model_fields_set
        if self.lr_warmup_ratio is not None and "lr_warmup_steps" in given:
            refuse("lr_warmup_ratio", "be left out when lr_warmup_steps is given", self.lr_warmup_ratio)
        if self.optim == "adafactor" and (moments := given & {"adam_beta1", "adam_beta2", "adam_epsilon"}):
            name = min(moments)
            refuse(name, "be left out with adafactor", getattr(self, name))
        return self
