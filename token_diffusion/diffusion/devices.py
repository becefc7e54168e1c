"""What a device is told from the CPU, on which all state lies, without waiting for what the device is at."""

from __future__ import annotations

import torch
from torch import Tensor

PINNED = {"cuda"}
"""Types of devices that copy from pinned memory while they do something else."""


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, as by `to`; by way of pinned memory where that helps.

    A plain copy waits until the device has done all that it was given: the draws of a tick would be launched no sooner
    than its forward pass has ended. A copy of pinned memory is queued behind that like any kernel. The pinned block is torch's
    own, which gives it to nobody else before the copy is done.
    """
    if device.type not in PINNED or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
