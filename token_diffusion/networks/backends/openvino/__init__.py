"""OpenVINO: the network as one graph of operations, fused, and compiled for the processor that it runs on.

What it is compiled from is torch's own pass, written down as it runs once (`graphs`): so no architecture is known here by name.
A graph that does not answer as torch does (`agreement`) is refused.
"""

from __future__ import annotations

import torch

from ....errors import ParameterError, in_short
from ...behaviour import behaviour
from ...denoiser import Denoiser, MaskedLMDenoiser
from .agreement import check_agreement
from .denoiser import OpenVINODenoiser
from .graphs import body_graph, head_graph, time_embedding
from .library import openvino

TYPES = ("float32", "bfloat16")


def hand_over(plain: MaskedLMDenoiser, dtype: str) -> Denoiser:
    """The same network in OpenVINO, in a type of `TYPES`, on as many threads as torch has now; torch's weights are dropped.

    Raises:
        ParameterError: it is not installed, is no CPU's, does not convert, or its graph answers otherwise than torch does.
    """
    openvino()
    name = type(plain.model).__name__
    if plain.device.type != "cpu":
        raise ParameterError("backend", f"be torch on the device {plain.device}, as this one is for a CPU", "openvino")
    if dtype not in TYPES:
        raise ParameterError("backend", f"be torch for {dtype}, as this one is for {' and '.join(TYPES)}", "openvino")
    if behaviour(plain.model).random:
        raise ParameterError("backend", f"be torch for {name}, which draws random numbers as it answers", "openvino")
    try:
        embedded = time_embedding(plain.model)
        body, head = body_graph(plain, embedded), head_graph(plain) if plain.gathers else None
    except Exception as error:  # whatever a conversion raises
        raise ParameterError(
            "backend", f"be torch for {name}, which cannot be converted ({in_short(error)})", "openvino"
        ) from error
    denoiser = OpenVINODenoiser(plain, embedded, body, head)
    check_agreement(plain, denoiser)
    plain.model.to(torch.device("meta"))
    if hasattr(plain.model, "tie_weights"):
        plain.model.tie_weights()  # so that what it counts as its own is what it was
    return denoiser
