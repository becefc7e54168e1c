"""`dtype="auto"`: the type of the weights that is best for where they go, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..networks.cpu.bfloat16 import units

AUTO = "auto"

ERROR = "log-probabilities are then about 0.008 nats off"
"""Of tokens that are at least as likely as one in a thousand, on the demos: `python -m benchmarks precision`."""


@dataclass(frozen=True)
class Choice:
    """dtype: one of `DTYPES`. why: what the log says of it, after its name."""

    dtype: str
    why: str


def choose(device: str, is_bfloat16: bool) -> Choice:
    """bfloat16 where the weights are that, or the device multiplies it natively; else float32.

    is_bfloat16: the weights as they are stored; float32 would take twice the memory for the same numbers.
    """
    if is_bfloat16:
        return Choice("bfloat16", "which the weights are")
    kind = torch.device(device).type
    if kind == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        has = "this GPU multiplies it" if native else None
    else:
        found = units() if kind == "cpu" else None
        has = f"this CPU has {found}" if found else None
    if has is None:
        return Choice("float32", f"as this {kind.upper()} has no products in bfloat16")
    return Choice("bfloat16", f"as {has}; {ERROR}")
