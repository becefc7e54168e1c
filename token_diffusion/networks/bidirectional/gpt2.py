"""GPT-2 with attention to all positions: DiffuGPT."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model
from transformers.modeling_outputs import BaseModelOutput

from .attention import see_everything, shifted


class BidirectionalGPT2Config(GPT2Config):
    """GPT-2's, and shift_logits: whether the logits of a position are those that GPT-2 has at the position before it."""

    model_type = "bidirectional-gpt2"
    shift_logits: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.is_causal = False


class BidirectionalGPT2Model(GPT2Model):
    """The body; its hidden states are shifted where the logits are."""

    config_class = BidirectionalGPT2Config

    def __init__(self, config: BidirectionalGPT2Config) -> None:
        super().__init__(config)
        see_everything(self)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """input_ids int64 [B, L], attention_mask [B, L], 0 at padding -> `last_hidden_state` [B, L, hidden_size]."""
        output = super().forward(input_ids, attention_mask=attention_mask, **kwargs | {"use_cache": False})
        return shifted(output) if self.config.shift_logits else output


class BidirectionalGPT2ForMaskedLM(GPT2LMHeadModel):
    """The body and its vocabulary head."""

    config_class = BidirectionalGPT2Config

    def __init__(self, config: BidirectionalGPT2Config) -> None:
        super().__init__(config)
        self.transformer = BidirectionalGPT2Model(config)
        self.post_init()
