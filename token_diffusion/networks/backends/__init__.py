"""Who computes the forward passes of a network: torch, or what the network is handed over to, one file each.

A file `NAME.py` has `hand_over(plain, dtype)`: a denoiser that answers as `plain` does, in the type of the weights that was asked
for. It raises `ParameterError`, of "backend", for what it cannot take, and has then changed nothing; what it hands back has
`forbidden`, `ends`, `num_classes` and `block_size` as `plain` has them. It may drop torch's weights, where it has its own.
"""

from __future__ import annotations

from importlib import import_module

from ..denoiser import Denoiser, MaskedLMDenoiser

BACKENDS = ("torch", "openvino", "compile")


def handed_over(backend: str, plain: MaskedLMDenoiser, dtype: str) -> Denoiser:
    """A denoiser of one of `BACKENDS` but torch.

    dtype: of the weights, one of `checkpoint.DTYPES`.

    Raises:
        ParameterError: it is not installed, or cannot take this network, type or device.
    """
    denoiser: Denoiser = import_module(f".{backend}", __name__).hand_over(plain, dtype)
    return denoiser
