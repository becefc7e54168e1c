"""What a pipeline is given, in the samplers' terms: token ids, seeds and generators."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ParameterError


def token_lists(tokens: Any, seq_len: int | None) -> list[list[int]]:
    """[L] or [B, L] ids, or lists of such, as B lists."""
    lists = _as_list(tokens)
    lists = lists if lists and isinstance(lists[0], (list, tuple, Tensor, np.ndarray)) else [lists]
    lists = [_as_list(row) for row in lists]
    for row in lists:
        if not row or not all(type(token) is int for token in row):
            raise ParameterError("tokens", "be lists of integers, -1 where the sampler fills in", row)
        if seq_len is not None and len(row) != seq_len:
            raise ParameterError("tokens", f"have seq_len = {seq_len} entries", len(row))
    return lists


def _as_list(values: Any) -> list[Any]:
    """Empty for what is no list, tuple, tensor or array."""
    values = values.tolist() if isinstance(values, (Tensor, np.ndarray)) else values
    return list(values) if isinstance(values, (list, tuple)) else []


def seeds_of(seed: Any, generator: Any, count: int) -> list[int]:
    """A seed for each of `count` prompts."""
    if seed is not None and generator is not None:
        raise ParameterError("generator", "be absent where seed is given", generator)
    for name, value in (("seed", seed), ("generator", generator)):
        if isinstance(value, list) and len(value) != count:
            raise ParameterError(name, f"be one, or a list of {count}, one for each prompt", value)
    if seed is not None:
        return list(seed) if isinstance(seed, list) else [seed] * count
    generators = generator if isinstance(generator, list) else [generator] * count
    for each in generators:
        if each is not None and not isinstance(each, torch.Generator):
            raise ParameterError("generator", "be a torch.Generator or a list of them", each)
    return [_drawn_seed(each) for each in generators]


def _drawn_seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))
