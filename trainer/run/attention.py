"""Attention in bfloat16 on a CPU, by the matrix products that oneDNN has.

torch's own (`_scaled_dot_product_flash_attention_for_cpu`) has none for it: in bfloat16 it takes twice as long as in float32,
and three times as long as this, most of it on the way back. That alone can make a step in bfloat16 slower than one in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

MOST_SCORES = 2**25
"""They are kept for the way back, 6 bytes each; beyond it torch's own, which keeps none, is worth its time."""


class ProductAttention(TorchFunctionMode):
    """While it is entered, `scaled_dot_product_attention` under bfloat16 autocast on a CPU is `attention`."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        chosen = attention if function is F.scaled_dot_product_attention else function
        return chosen(*arguments, **(options or {}))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """softmax(q kᵀ scale + mask) v of [B, H, L, D] each; scores are bfloat16 and the softmax is float32, as autocast has it.

    What it does not know, causal masks and grouped heads, and too many scores go to torch's own.
    """
    count = query.shape[:-1].numel() * key.shape[-2]
    scale = options.pop("scale", None)
    if not _takes_bfloat16(query) or is_causal or options.get("enable_gqa") or count > MOST_SCORES:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options
        )
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = F.softmax(scores, -1)
    return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value


def _takes_bfloat16(query: Tensor) -> bool:
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    return torch.get_autocast_dtype("cpu") == torch.bfloat16
