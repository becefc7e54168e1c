"""The transformer as models of transformers: the body, and the body with a vocabulary head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from ...errors import ParameterError
from .config import TokenDiffusionConfig
from .layers import (
    AdaptiveLayerNorm,
    Block,
    ClassEmbedding,
    Modulation,
    Output,
    TimeEmbedding,
    rotations,
    seen_in_blocks,
)


class TokenDiffusionPreTrainedModel(PreTrainedModel):
    """What the body and the masked LM share."""

    config: TokenDiffusionConfig
    config_class = TokenDiffusionConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Modulation):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Output):
            std = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class TokenDiffusionModel(TokenDiffusionPreTrainedModel):
    """The body: token ids and time to hidden states."""

    def __init__(self, config: TokenDiffusionConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_time = TimeEmbedding(config) if config.adaptive else None
        self.embed_class = ClassEmbedding(config) if config.num_classes else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = AdaptiveLayerNorm(config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        timesteps: Tensor | None = None,
        class_labels: Tensor | None = None,
        clean_ids: Tensor | None = None,
    ) -> BaseModelOutput:
        """Args as `TokenDiffusionForMaskedLM.forward`; `last_hidden_state` is [B, L, hidden_size], after the last norm."""
        condition, length = self._condition(timesteps, class_labels, input_ids), input_ids.shape[1]
        size, shown = self.config.causal_block_size or length, [input_ids]
        if clean_ids is not None and size < length:  # else there is no earlier block to be seen clean
            shown.append(clean_ids)
        hidden = self.embed_tokens(torch.cat(shown, 1))
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        cos, sin = rotations(length, head_dim, self.config.rope_theta, hidden)
        rotation = torch.cat([cos] * len(shown)), torch.cat([sin] * len(shown))
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :].repeat(1, 1, 1, len(shown))
        if size < length:
            seen = seen_in_blocks(length, size, len(shown) == 2, hidden.device)
            mask = seen if mask is None else seen & mask
        for block in self.blocks:
            hidden = block(hidden, condition, rotation, mask)
        return BaseModelOutput(last_hidden_state=self.norm(hidden[:, :length], condition))

    def _condition(self, timesteps: Tensor | None, class_labels: Tensor | None, input_ids: Tensor) -> Tensor | None:
        if self.embed_time is None:
            return None
        rows = input_ids.shape[0]  # which a traced graph leaves open, as it does not the result of len
        if self.config.time_conditioning == "zero":
            timesteps = torch.zeros(rows, device=input_ids.device)
        elif timesteps is None or timesteps.shape != (rows,) or not timesteps.is_floating_point():
            rule = f"be the times t in (0, 1], float [{rows}]: time_conditioning is {self.config.time_conditioning!r}"
            raise ParameterError(
                "timesteps", rule, timesteps if timesteps is None else (timesteps.dtype, list(timesteps.shape))
            )
        condition = self.embed_time(timesteps, self.embed_tokens.weight.dtype)
        if self.embed_class is None:
            return condition
        none = torch.full((rows,), -1, device=input_ids.device)
        return condition + self.embed_class(none if class_labels is None else class_labels)


class TokenDiffusionForMaskedLM(TokenDiffusionPreTrainedModel):
    """The body and its vocabulary head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (as transformers declares it)

    def __init__(self, config: TokenDiffusionConfig) -> None:
        super().__init__(config)
        self.model = TokenDiffusionModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        timesteps: Tensor | None = None,
        labels: Tensor | None = None,
        class_labels: Tensor | None = None,
        clean_ids: Tensor | None = None,
    ) -> MaskedLMOutput:
        """Logits of the clean tokens at all positions.

        Args:
            input_ids: noisy tokens, int64 [B, L].
            attention_mask: [B, L], 0 at padding.
            timesteps: the time t in (0, 1] of each sequence, float [B], whatever `time_conditioning` makes of it; not needed
                with "none" and "zero".
            labels: int64 [B, L], -100 where there is none; `loss` is then the mean cross-entropy, not a NELBO.
            class_labels: int64 [B] below `num_classes`, -1 for "no label", which all are without it.
            clean_ids: int64 [B, L], what input_ids are without noise. With `causal_block_size`, a noisy block sees those before
                it as they are here, as when it is sampled: training as BD3-LM's, in one pass of twice the length.

        Raises:
            ParameterError: a network that is told the time gets none, or not one a sequence.
        """
        hidden = self.model(input_ids, attention_mask, timesteps, class_labels, clean_ids).last_hidden_state
        logits = self.lm_head(hidden)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)
