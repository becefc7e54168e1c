"""Qwen3 with attention to all positions: models that dLLM turned."""

from __future__ import annotations

from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from .attention import SeesEverything, Turned


class BidirectionalQwen3Config(Turned, Qwen3Config):
    """Qwen3's, and whether logits are shifted."""

    model_type = "bidirectional-qwen3"
    shift_logits: bool = False


class BidirectionalQwen3Model(SeesEverything, Qwen3Model):
    """The body."""

    config_class = BidirectionalQwen3Config


class BidirectionalQwen3ForMaskedLM(Qwen3ForCausalLM):
    """The body and its vocabulary head."""

    config_class = BidirectionalQwen3Config

    def __init__(self, config: BidirectionalQwen3Config) -> None:
        super().__init__(config)
        self.model = BidirectionalQwen3Model(config)
        self.post_init()
