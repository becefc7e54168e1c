"""Qwen2 with attention to all positions: Dream, and models that dLLM turned."""

from __future__ import annotations

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from .attention import SeesEverything, Turned


class BidirectionalQwen2Config(Turned, Qwen2Config):
    """Qwen2's, and whether logits are shifted."""

    model_type = "bidirectional-qwen2"
    shift_logits: bool = False


class BidirectionalQwen2Model(SeesEverything, Qwen2Model):
    """The body."""

    config_class = BidirectionalQwen2Config


class BidirectionalQwen2ForMaskedLM(Qwen2ForCausalLM):
    """The body and its vocabulary head."""

    config_class = BidirectionalQwen2Config

    def __init__(self, config: BidirectionalQwen2Config) -> None:
        super().__init__(config)
        self.model = BidirectionalQwen2Model(config)
        self.post_init()
