"""The matrix products of a forward pass and nothing between them: what no backend can do without.

A pass of the plain network is watched, and each linear layer (the head is one, at the positions it was asked for) and each
attention is noted with tensors of its own. Each is then done by the fastest kernel that torch has for it here, found by trying:
for linear layers plain or packed by oneDNN, for attention its two batched products or the fused kernel. All are then run
back to back, in the order of the pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from token_diffusion.networks.cpu.packing import is_supported
from token_diffusion.networks.denoiser import Denoiser

Kernel = Callable[[], Any]
TRIES = 3
"""Of each kernel, before the fastest is taken."""


class Products(TorchFunctionMode):
    """In here products are noted: `kernels`, of each those that can do it; `operations`, floating-point, of all."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.operations = list[list[Kernel]](), 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            self._linear(*args, **(kwargs or {}))
        elif func is F.scaled_dot_product_attention:
            self._attention(*args[:3])
        return func(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        """[..., in] x [in, out]."""
        kernels: list[Kernel] = [partial(F.linear, input, weight, bias)]
        if is_supported(weight.dtype):
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
            kernels.append(partial(torch.ops.mkldnn._linear_pointwise, input, packed, bias, "none", [], ""))
        self.kernels.append(kernels)
        self.operations += 2 * input.numel() * len(weight)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Heads [B, H, L, D]: [L, D] x [D, L] and [L, L] x [L, D]."""
        q, k, v = (each.contiguous().flatten(0, 1) for each in (query, key, value))
        weights = torch.full((len(q), q.shape[1], k.shape[1]), 1 / k.shape[1], dtype=q.dtype)

        def pair() -> None:
            torch.bmm(q, k.mT)
            torch.bmm(weights, v)

        self.kernels.append([pair, partial(F.scaled_dot_product_attention, query, key, value)])
        self.operations += 4 * q.numel() * k.shape[1]


@torch.inference_mode()
def products_of(denoiser: Denoiser, arguments: Sequence[Tensor]) -> tuple[list[Kernel], int]:
    """Of one call of a plain denoiser: each product by its fastest kernel, and their operations together."""
    with Products() as products:
        denoiser(*arguments)
    if not products.kernels:
        raise ValueError("the network must have linear layers of torch")
    return [min(kernels, key=_seconds) for kernels in products.kernels], products.operations


@torch.inference_mode()
def run(kernels: Sequence[Kernel]) -> None:
    """All of them; what they give is dropped as it comes."""
    for kernel in kernels:
        kernel()


def _seconds(kernel: Kernel) -> float:
    """The least of a few tries, after one untimed."""
    kernel()
    found = []
    for _ in range(TRIES):
        start = time.perf_counter()
        kernel()
        found.append(time.perf_counter() - start)
    return min(found)
