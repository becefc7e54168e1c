"""Linear layers on the CPU by oneDNN, from weights that lie in its own order: the same products, sooner.

Two things cost `nn.Linear` time there. In float32 its products are MKL's, which leaves its fast kernels off on processors that
Intel has not made: they then take twice as long as they need. In bfloat16 they are oneDNN's, which puts the weights into its
order at every call. Both end where the weights are put into that order once. How much it is: `python -m benchmarks packing`.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Linear):
    """An `nn.Linear` that keeps a second copy of its weights for inference: made when it is needed, and anew when they change.

    Where gradients or autocast are wanted, and for any other type of input, it is the plain layer.
    """

    _packed: Tensor | None = None
    _version = -1
    """of the weights that were packed"""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not self._fits(input):
            return super().forward(input)
        if self._packed is None or self._version != self.weight._version:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), None)
            self._version = self.weight._version
        return torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")

    def _fits(self, input: Tensor) -> bool:
        return input.device.type == "cpu" and input.dtype == self.weight.dtype and input.dtype in DTYPES

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {
            "_packed": None
        }  # what lies in oneDNN's order can be neither copied nor written to a file


def pack(model: nn.Module) -> None:
    """Make `model`'s linear layers packed ones, in place; the weights, their names and what may be done with them stay."""
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = PackedLinear


def pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packed layers are there, and sooner done than plain ones, for weights of this type on this device."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 and torch.backends.mkl.is_available() and not made_by_intel()


@cache
def made_by_intel() -> bool:
    """What MKL asks the processor."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        described = platform.processor()
    return "GenuineIntel" in described
