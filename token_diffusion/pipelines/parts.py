"""What a pipeline is made of, and whether that fits together."""

from __future__ import annotations

from typing import Any

import torch

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..errors import ParameterError
from ..networks.transformer import TokenDiffusionConfig

PARTS = ("model", "scheduler", "tokenizer", "facts")
DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def check_parts(model: Any, scheduler: Any, tokenizer: Any) -> None:
    """Raises `ParameterError` if they do not fit each other."""
    if not isinstance(scheduler, TokenDiffusionScheduler):
        raise ParameterError("scheduler", "be a TokenDiffusionScheduler", type(scheduler).__name__)
    width, mask = scheduler.config.vocab_size, scheduler.config.mask_token_id
    if (found := model.config.get_text_config().vocab_size) != width:
        raise ParameterError("model", f"be as wide as the scheduler's vocab_size {width}", found)
    if tokenizer is not None and tokenizer.mask_token_id != mask:
        raise ParameterError("tokenizer", f"have the scheduler's mask_token_id {mask}", tokenizer.mask_token_id)
    if isinstance(model.config, TokenDiffusionConfig):
        model.config.check_process(scheduler.process)
