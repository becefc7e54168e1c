"""What turns a causal network of transformers into one in which every position sees every other."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def see_everything(body: nn.Module) -> None:
    """No attention layer of the body is causal any more.

    With `is_causal` False in its config transformers makes masks of padding alone, and none where there is no padding; then a
    layer goes by its own `is_causal`.
    """
    for module in body.modules():
        if hasattr(module, "is_causal"):
            setattr(module, "is_causal", False)  # noqa: B010 (torch declares what a module has, and not this)


def shifted(output: Any) -> Any:
    """A body's output, its hidden states [B, L, H] a position to the right, the first twice: each row keeps to itself.

    So has a network that learnt to predict the next token, and then to fill in: logits of position p come of position p - 1.
    """
    hidden = output.last_hidden_state
    output.last_hidden_state = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
    return output
