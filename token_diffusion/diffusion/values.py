"""What a single value must be: the checks that configurations, schedulers and samplers share."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError

MAX_STEPS = 2**20
"""Bound of `num_inference_steps`; far beyond use. It keeps step counters inside the 32 bits of a random counter, and the times
of a grid further apart than float32 rounds."""


def check_int(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raises `ParameterError` unless `value` is an int, not a bool, in [low, high)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ParameterError(name, "be an integer", value)
    if value < low or (high is not None and value >= high):
        raise ParameterError(name, f"be >= {low}" if high is None else f"be in [{low}, {high})", value)


def check_number(name: str, value: object) -> None:
    """Raises `ParameterError` unless `value` is an int or a float, not a bool, and finite as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        raise ParameterError(name, "be a finite number", value)


def check_bool(name: str, value: object) -> None:
    """Raises `ParameterError` unless `value` is True or False, as JSON has them: 0, 1 and "no" are not."""
    if not isinstance(value, bool):
        raise ParameterError(name, "be true or false", value)


def check_shaping(temperature: float, top_p: float, top_k: int, min_p: float) -> None:
    """Raises `ParameterError` for a temperature below 0, a top_p outside (0, 1], a top_k below 0 or a min_p outside [0, 1]."""
    check_number("temperature", temperature)
    if temperature < 0:
        raise ParameterError("temperature", "be >= 0", temperature)
    check_number("top_p", top_p)
    if not 0 < top_p <= 1:
        raise ParameterError("top_p", "be in (0, 1]", top_p)
    check_int("top_k", top_k, 0, 2**31)
    check_number("min_p", min_p)
    if not 0 <= min_p <= 1:
        raise ParameterError("min_p", "be in [0, 1]", min_p)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def whole(name: str, value: Any) -> int:
    """An integer of Python's, numpy's or torch's as Python's; raises `ParameterError` for all else, bools too."""
    is_bool = isinstance(value, bool) or getattr(value, "dtype", None) in (torch.bool, bool)
    try:
        if not is_bool:
            return operator.index(value)
    except TypeError:
        pass
    raise ParameterError(name, "be an integer", value)


def check_shape(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raises `ParameterError` unless a tensor of that shape."""
    if not torch.is_tensor(value):
        raise ParameterError(name, "be a tensor", type(value).__name__)
    if value.shape != shape:
        raise ParameterError(name, f"have the shape {list(shape)}", list(value.shape))


def check_tokens(name: str, tokens: Any, vocab_size: int | None = None) -> None:
    """Raises `ParameterError` unless int64 [B, L]; with a `vocab_size` unless ids below it, too.

    The ids are looked at where that needs no waiting for a device.
    """
    if not torch.is_tensor(tokens) or tokens.dtype != torch.int64 or tokens.dim() != 2:
        found = (tokens.dtype, list(tokens.shape)) if torch.is_tensor(tokens) else type(tokens).__name__
        raise ParameterError(name, "be an int64 tensor of the shape [B, L]", found)
    if vocab_size is None or tokens.device.type != "cpu" or not tokens.numel():
        return
    low, high = (bound.item() for bound in tokens.aminmax())
    if low < 0 or high >= vocab_size:
        raise ParameterError(name, f"hold token ids in [0, {vocab_size})", low if low < 0 else high)


def check_logits(name: str, logits: Any, tokens: Tensor, vocab_size: int) -> None:
    """Raises `ParameterError` unless float [B, L, V] on the device of the tokens [B, L]."""
    check_shape(name, logits, (*tokens.shape, vocab_size))
    if not logits.is_floating_point():
        raise ParameterError(name, "be a float tensor", logits.dtype)
    if logits.device != tokens.device:
        raise ParameterError(name, f"be on the sample's device {tokens.device}", str(logits.device))


def check_times(name: str, timesteps: Any, samples: Tensor) -> Tensor:
    """t in (0, 1], float [B] or [B, L] for samples [B, L], as float64 [B, L] on their device; `ParameterError` for others.

    The range is looked at where that needs no waiting for a device.
    """
    if not torch.is_tensor(timesteps) or not timesteps.is_floating_point():
        raise ParameterError(name, "be a float tensor with values in (0, 1]", getattr(timesteps, "dtype", timesteps))
    if timesteps.shape not in (samples.shape[:1], samples.shape):
        rule = f"have the shape {list(samples.shape[:1])} or {list(samples.shape)}"
        raise ParameterError(name, rule, list(timesteps.shape))
    t = timesteps.to(samples.device, torch.float64)
    if t.device.type == "cpu" and t.numel() and not (bool((t > 0).all()) and bool((t <= 1).all())):
        raise ParameterError(name, "be in (0, 1]", [t.min().item(), t.max().item()])
    return (t.unsqueeze(-1) if t.dim() == 1 else t).expand(samples.shape)
