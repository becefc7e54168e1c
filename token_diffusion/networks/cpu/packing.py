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

from .memory import free


class PackedLinear(nn.Linear):
    """An `nn.Linear` that keeps a second copy of its weights for inference: made when it is needed, and anew when they change.

    Where gradients, autocast or a compiler are at work, and for any other type of input, it is the plain layer. A change is
    not seen where torch itself does not see it, `weight.data.mul_(2)`, until there was a pass with gradients.
    """

    _packed: Tensor | None = None
    _source: Tensor | None = None
    """The weights that were packed; held, so that no others can come to lie where they did."""
    _version = -1

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self._packed = self._source = None  # an optimizer may follow, and a fused one changes weights unseen
            return super().forward(input)
        if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or not self._fits(input):
            return super().forward(input)
        if not self._is_current():
            self.copy()
        return torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")

    def copy(self) -> None:
        """Makes the second copy, of the weights as they are."""
        self._source, self._version = self.weight.detach(), self.weight._version
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self._source, None)

    def _fits(self, input: Tensor) -> bool:
        weight = self.weight
        on_cpu = input.device.type == weight.device.type == "cpu" and not weight.is_inference()
        return on_cpu and input.dtype == weight.dtype and is_supported(weight.dtype)

    def _is_current(self) -> bool:
        weight, source = self.weight, self._source
        if source is None or source.dtype != weight.dtype or source.shape != weight.shape:
            return False
        return source.data_ptr() == weight.data_ptr() and self._version == weight._version

    def __getstate__(self) -> dict[str, object]:
        # what lies in oneDNN's order can be neither copied nor written to a file
        return self.__dict__ | {"_packed": None, "_source": None}


def pack(model: nn.Module) -> None:
    """Make `model`'s linear layers packed ones, in place; it learns, is saved and copied as before. Needs oneDNN.

    The second copy takes as much memory as the layers' weights, in the head too where these are the embedding's.
    """
    for layer in model.modules():
        if type(layer) is nn.Linear and layer.weight.numel():
            layer.__class__ = PackedLinear


def pack_where_it_pays(model: nn.Module) -> bool:
    """`pack`, if that makes the network faster where it is and there is the memory for it. Returns whether it has.

    The memory is there if twice the second copy is free: so that as much as it takes is left for all else.
    """
    weight = next(model.parameters())
    if not pays(weight.device, weight.dtype):
        return False
    room = free()
    if room is not None and 2 * copy_size(model) > room:
        return False
    pack(model)
    for layer in model.modules():
        if isinstance(layer, PackedLinear) and not layer.weight.is_inference():
            layer.copy()  # now, so that it is not free for the next network
    return True


def copy_size(model: nn.Module) -> int:
    """Bytes of the second copy that `pack` keeps."""
    return sum(layer.weight.nbytes for layer in model.modules() if type(layer) is nn.Linear)


def pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packed layers are there, and sooner done than plain ones, for weights of this type on this device."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64") or not is_supported(dtype):
        return False
    return dtype != torch.float32 or (torch.backends.mkl.is_available() and not made_by_intel())


@cache
def is_supported(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and takes packed weights of this type on this processor."""
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def made_by_intel() -> bool:
    """What MKL asks the processor."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        described = platform.processor()
    return "GenuineIntel" in described
