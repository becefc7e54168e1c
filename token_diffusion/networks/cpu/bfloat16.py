"""Whether the processor multiplies bfloat16 itself; elsewhere its products are made of float32's, and take no less time."""

from __future__ import annotations

import torch

from .packing import pays


def units() -> str | None:
    """What the processor has for products in bfloat16, by name; None where it has nothing, or oneDNN does not use it."""
    if not pays(torch.device("cpu"), torch.bfloat16):
        return None
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512_BF16" if torch.cpu._is_avx512_bf16_supported() else None
