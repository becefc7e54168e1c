"""GPT-2 with attention to all positions: DiffuGPT."""

from __future__ import annotations

from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from .attention import SeesEverything, Turned


class BidirectionalGPT2Config(Turned, GPT2Config):
    """GPT-2's, and whether logits are shifted."""

    model_type = "bidirectional-gpt2"
    shift_logits: bool = False


class BidirectionalGPT2Model(SeesEverything, GPT2Model):
    """The body."""

    config_class = BidirectionalGPT2Config


class BidirectionalGPT2ForMaskedLM(GPT2LMHeadModel):
    """The body and its vocabulary head."""

    config_class = BidirectionalGPT2Config

    def __init__(self, config: BidirectionalGPT2Config) -> None:
        super().__init__(config)
        self.transformer = BidirectionalGPT2Model(config)
        self.post_init()
