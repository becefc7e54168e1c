"""What turns a causal network of transformers into one in which every position sees every other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class Turned(PreTrainedConfig):
    """Beside a network's own: shift_logits, whether a position's logits are those that it has at the position before it.

    So has a network that learnt to predict the next token, and then to fill in.
    """

    shift_logits: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.is_causal = False


class SeesEverything(PreTrainedModel):
    """A body of which no attention layer is causal; its hidden states are shifted where the logits are.

    With `is_causal` False in its config transformers makes masks of padding alone, and none where there is no padding; then a
    layer goes by its own `is_causal`.
    """

    def __init__(self, config: Turned) -> None:
        super().__init__(config)
        for module in self.modules():
            if hasattr(module, "is_causal"):
                setattr(module, "is_causal", False)  # noqa: B010 (torch declares what a module has, and not this)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """input_ids int64 [B, L], attention_mask [B, L], 0 at padding -> `last_hidden_state` [B, L, hidden_size]."""
        output = super().forward(input_ids, attention_mask=attention_mask, **kwargs | {"use_cache": False})
        return shifted(output) if self.config.shift_logits else output


def shifted(output: Any) -> Any:
    """A body's output, its hidden states [B, L, H] a position to the right, the first twice: each row keeps to itself."""
    hidden = output.last_hidden_state
    output.last_hidden_state = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
    return output
