"""Qwen3 with attention to all positions: models that dLLM turned."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model
from transformers.modeling_outputs import BaseModelOutput

from .attention import see_everything, shifted


class BidirectionalQwen3Config(Qwen3Config):
    """Qwen3's, and shift_logits: whether the logits of a position are those that Qwen3 has at the position before it."""

    model_type = "bidirectional-qwen3"
    shift_logits: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.is_causal = False


class BidirectionalQwen3Model(Qwen3Model):
    """The body; its hidden states are shifted where the logits are."""

    config_class = BidirectionalQwen3Config

    def __init__(self, config: BidirectionalQwen3Config) -> None:
        super().__init__(config)
        see_everything(self)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """input_ids int64 [B, L], attention_mask [B, L], 0 at padding -> `last_hidden_state` [B, L, hidden_size]."""
        output = super().forward(input_ids, attention_mask=attention_mask, **kwargs | {"use_cache": False})
        return shifted(output) if self.config.shift_logits else output


class BidirectionalQwen3ForMaskedLM(Qwen3ForCausalLM):
    """The body and its vocabulary head."""

    config_class = BidirectionalQwen3Config

    def __init__(self, config: BidirectionalQwen3Config) -> None:
        super().__init__(config)
        self.model = BidirectionalQwen3Model(config)
        self.post_init()
