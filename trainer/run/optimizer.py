"""AdamW and the shape of its learning rate."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ..config import TrainingConfig


def make_optimizer(config: TrainingConfig, model: PreTrainedModel) -> torch.optim.Optimizer:
    """AdamW; only matrices are decayed."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon
    )
