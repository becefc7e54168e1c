"""Llama with attention to all positions: LLaDA, DiffuLLaMA, and models that dLLM turned."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from .attention import SeesEverything, Turned


class BidirectionalLlamaConfig(Turned, LlamaConfig):
    """Llama's, and whether logits are shifted."""

    model_type = "bidirectional-llama"
    shift_logits: bool = False


class BidirectionalLlamaModel(SeesEverything, LlamaModel):
    """The body."""

    config_class = BidirectionalLlamaConfig


class BidirectionalLlamaForMaskedLM(LlamaForCausalLM):
    """The body and its vocabulary head."""

    config_class = BidirectionalLlamaConfig

    def __init__(self, config: BidirectionalLlamaConfig) -> None:
        super().__init__(config)
        self.model = BidirectionalLlamaModel(config)
        self.post_init()
