"""What a pipeline is given, in the samplers' terms: token ids, seeds and generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from ..errors import ParameterError
from ..facts import Frame
from ..text import OPEN
from .output import OUTPUT_TYPES


def check_given(texts: Mapping[str, Any], output_type: Any, has_tokenizer: bool) -> None:
    """Raises `ParameterError` for more than one of these inputs, for what is no text, and for no known output."""
    given = {name: value for name, value in texts.items() if value is not None}
    for first, second in zip(given, list(given)[1:], strict=False):
        raise ParameterError(second, f"be absent where {first} is given", given[second])
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        if name != "tokens" and not (values and all(isinstance(text, str) for text in values)):
            raise ParameterError(name, "be a text or a list of texts", value)
        if name != "tokens" and not has_tokenizer:
            raise ParameterError(name, "be absent where the pipeline has no tokenizer", value)
    if output_type not in OUTPUT_TYPES:
        raise ParameterError("output_type", f"be one of {', '.join(OUTPUT_TYPES)}", output_type)
    if output_type == "text" and not has_tokenizer:
        raise ParameterError("output_type", "be tokens, pt or np where the pipeline has no tokenizer", output_type)


def check_callback(callback: Any, names: Any, known: Sequence[str]) -> None:
    """Raises `ParameterError` for what is no callback, and for tensors that there are not."""
    if callback is not None and not callable(callback):
        raise ParameterError("callback_on_step_end", "be callable", callback)
    if unknown := [name for name in names if name not in known]:
        raise ParameterError("callback_on_step_end_tensor_inputs", f"be among {list(known)}", unknown)


def check_returned(returned: Any, given: Mapping[str, Tensor], sample: Tensor) -> None:
    """Raises `ParameterError` if a callback that was `given` copies of `sample` has changed it, or returned something else."""
    if not isinstance(returned, (dict, type(None))):
        raise ParameterError("callback_on_step_end", "return a dict or nothing", returned)
    for name, value in [*given.items(), *(returned or {}).items()]:
        if name not in given or not torch.is_tensor(value) or not sample.equal(value.to(sample.device)):
            rule = "leave the tokens as they are: they are a function of the seed"
            raise ParameterError("callback_on_step_end", rule, name)


def open_canvas(frame: Frame, seq_len: int) -> list[int]:
    """A sequence of which all but the frame is open. Raises `ParameterError` if there is no room for more."""
    if seq_len <= len(frame):
        raise ParameterError("seq_len", f"be more than {len(frame)}, the tokens of the frame", seq_len)
    return frame.around([OPEN] * (seq_len - len(frame)))


def tensor_inputs(callback: Any, names: Sequence[str] | None, known: Sequence[str]) -> Sequence[str]:
    """The tensors that a callback is given: its own if it says which, or else `names`, or all."""
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        own: Sequence[str] = callback.tensor_inputs
        return own
    return known if names is None else names


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
