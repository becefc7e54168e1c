"""int8 on the CPU: the linear layers of the body with int8 weights, their input scaled to int8 as it comes."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from ...errors import ParameterError
from ..denoiser import Denoiser, MaskedLMDenoiser
from ..rowwise import Rowwise


def quantised(denoiser: MaskedLMDenoiser) -> Denoiser:
    """The denoiser with its body's linear layers in int8, changed in place; the vocabulary head keeps its precision.

    The scale of a layer's input is the largest value in the forward pass, whichever row holds it. So each row gets a forward
    pass of its own: otherwise a request's tokens would depend on its neighbours, and visibly so, not by rounding.

    Raises:
        ParameterError: the network is not on the CPU, or its body cannot be told from its head.
    """
    if denoiser.device.type != "cpu":
        raise ParameterError("dtype", "be int8 on a CPU only", str(denoiser.device))
    body = denoiser.model.base_model
    if body is denoiser.model:
        raise ParameterError("dtype", "be int8 only for a network whose body is apart from its head", "int8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces that it will move to another package, torchao
        torch.ao.quantization.quantize_dynamic(body, {nn.Linear}, dtype=torch.qint8, inplace=True)
    return Rowwise(denoiser)
