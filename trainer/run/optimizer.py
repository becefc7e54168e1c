"""The optimizer: AdamW, or Adafactor where its memory is dear."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel
from transformers.optimization import Adafactor

from ..config import TrainingConfig


def make_optimizer(config: TrainingConfig, model: PreTrainedModel) -> torch.optim.Optimizer:
    """The optimizer that the flags name, of what learns; only matrices are decayed. Adafactor is as in transformers' Trainer."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in learning if parameter.dim() > 1]
    others = [parameter for parameter in learning if parameter.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.optim == "adafactor":
        return Adafactor(groups, lr=config.learning_rate, scale_parameter=False, relative_step=False)
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True if config.optim == "adamw_torch_fused" else None,
    )
