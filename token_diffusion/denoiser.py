"""Any masked LM as a denoiser that evaluates its vocabulary head only at the positions asked for.

    denoiser(tokens [B, L], t [B], valid [B, L], positions [n]) -> logits [n, V]

`tokens` int64, `t` float64 times in (0, 1], `valid` bool (False is padding), `positions` int64 indices into the flattened
[B * L]. The body runs over the batch; the head, often a third of the work and most of the memory, over n rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Denoiser(Protocol):
    """What the samplers call. `device` is where it wants its tokens."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor: ...


class CallableDenoiser:
    """A plain callable `(tokens [B, L], t [B]) -> logits [B, L, V]` in a denoiser's place; it sees padding as it is.

    Its t has torch's default dtype, as a network's weights have.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], device: str | torch.device = "cpu") -> None:
        self.function, self.device = function, torch.device(device)

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        return self.function(tokens, t.to(torch.get_default_dtype())).flatten(0, 1)[positions]


class MaskedLMDenoiser:
    """A masked LM of transformers (`forward(input_ids, attention_mask).logits`), in evaluation mode.

    A forward pass with a `timesteps` parameter is told t, float32 [B] (`time_arguments`).

    The head is reached without knowing the architecture: a hook on the body (`base_model`) hands the head only the hidden
    states at the asked positions. `gathers` says whether this model allows it, which is tried once, on random tokens,
    against its plain forward pass; where it does not, full logits are computed and gathered.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self._body = getattr(model, "base_model", model)
        self.gathers = False
        if self._body is not model:
            self.gathers = self._gathering_is_exact()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        if not self.gathers:
            return self._forward(tokens, t, valid).flatten(0, 1)[positions]
        with self._head_at(positions):
            return self._forward(tokens, t, valid).flatten(0, -2)

    def _forward(self, tokens: Tensor, t: Tensor, valid: Tensor) -> Tensor:
        return self.model(input_ids=tokens, attention_mask=valid.long(), **time_arguments(self.model, t)).logits

    @contextmanager
    def _head_at(self, positions: Tensor) -> Iterator[None]:
        handle = self._body.register_forward_hook(partial(_gather, positions))
        try:
            yield
        finally:
            handle.remove()

    @torch.inference_mode()
    def _gathering_is_exact(self) -> bool:
        """One random batch through both ways. A model that the hook breaks raises whatever its own code raises."""
        vocab_size = self.model.config.get_text_config().vocab_size
        tokens = torch.arange(12, device=self.device).view(2, 6) * 7 % vocab_size
        valid, positions = torch.ones_like(tokens, dtype=torch.bool), torch.tensor([1, 6, 11], device=self.device)
        t = torch.tensor([0.25, 0.75], device=self.device)
        plain = self._forward(tokens, t, valid).flatten(0, 1)[positions]
        try:
            with self._head_at(positions):
                gathered = self._forward(tokens, t, valid).flatten(0, -2)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
            return False
        tolerance = 2e-2 * plain.float().abs().max().item()
        return gathered.shape == plain.shape and torch.allclose(
            gathered.float(), plain.float(), rtol=0, atol=tolerance
        )


def time_arguments(model: nn.Module, t: Tensor) -> dict[str, Tensor]:
    """How `model` is told the time, in training and in sampling alike: `timesteps`, t itself, if its forward takes it.

    t: [B], in (0, 1]; it goes as float32. A wrapper of distributed training or of torch.compile is looked through.
    """
    inner: nn.Module | None = model
    while inner is not None:
        if _takes_timesteps(type(inner).forward):
            return {"timesteps": t.float()}
        inner = getattr(inner, "module", getattr(inner, "_orig_mod", None))
    return {}


@cache
def _takes_timesteps(forward: Callable[..., Any]) -> bool:
    """Asked before every forward pass, found out once: reading a signature takes longer than a small layer."""
    return "timesteps" in _parameter_names(forward)


def _gather(positions: Tensor, body: nn.Module, arguments: Any, output: Any) -> Any:
    """A hook: replaces the body's hidden states [B, L, H] by [1, n, H]."""
    hidden = output[0].flatten(0, 1)[positions].unsqueeze(0)
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    output.last_hidden_state = hidden
    return output


def as_denoiser(denoiser: Any) -> Denoiser:
    """A denoiser from what a caller has: a denoiser, a masked LM, or a callable `(tokens, t) -> logits [B, L, V]`."""
    if isinstance(denoiser, nn.Module) and hasattr(getattr(denoiser, "config", None), "get_text_config"):
        return MaskedLMDenoiser(denoiser)
    if isinstance(denoiser, (MaskedLMDenoiser, CallableDenoiser)):
        return denoiser
    if not callable(denoiser):
        raise TypeError(f"denoiser must be a masked LM or a callable, got {type(denoiser).__name__}")
    if "positions" in _parameter_names(denoiser):
        return denoiser
    weights = next(denoiser.parameters(), None) if isinstance(denoiser, nn.Module) else None
    return CallableDenoiser(denoiser, getattr(denoiser, "device", "cpu") if weights is None else weights.device)


def _parameter_names(function: Callable[..., Any]) -> list[str]:
    """Those of its call; none for what does not tell, such as a traced function."""
    try:
        return list(inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters)
    except (TypeError, ValueError):
        return []
