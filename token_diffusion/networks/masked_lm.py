"""How any masked LM of transformers is called, in training and in sampling alike: its time input, and its head in places."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

TimeInput = Literal["none", "t", "sigma"]


class Head:
    """The vocabulary head of a masked LM, to be run only at positions asked for.

    It is reached without knowing the architecture: a hook on the body (`base_model`) hands the head only the hidden states
    at those positions. Whether this model allows it is tried once, on a few tokens, against its plain forward pass.

    gathers: whether it does; if not, all logits have to be computed.
    """

    def __init__(self, model: Any) -> None:
        self._body = getattr(model, "base_model", model)
        self.gathers = self._body is not model and self._is_exact(model)

    @contextmanager
    def at(self, positions: Tensor) -> Iterator[None]:
        """In here the model's logits are [1, n, V], those at `positions` int64 [n], indices into the flattened [B * L]."""
        handle = self._body.register_forward_hook(partial(_gather, positions))
        try:
            yield
        finally:
            handle.remove()

    @torch.inference_mode()
    def _is_exact(self, model: Any) -> bool:
        """One batch through both ways. A model that this breaks, which raises whatever its own code raises, does not allow it."""
        inputs, was_training = probe(model), model.training
        positions = torch.tensor([1, 6, 11], device=inputs["input_ids"].device)
        model.eval()
        try:
            plain = model(**inputs).logits.flatten(0, 1)[positions].float()
            with self.at(positions):
                gathered = model(**inputs).logits.flatten(0, -2).float()
        except Exception:
            return False
        finally:
            model.train(was_training)
        tolerance = 2e-2 * plain.abs().max().item()
        return gathered.shape == plain.shape and torch.allclose(gathered, plain, rtol=0, atol=tolerance)


def _gather(positions: Tensor, body: nn.Module, arguments: Any, output: Any) -> Any:
    """A hook: replaces the body's hidden states [B, L, H] by [1, n, H]."""
    hidden = output[0].flatten(0, 1)[positions].unsqueeze(0)
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    output.last_hidden_state = hidden
    return output


def forward_arguments(
    model: nn.Module,
    tokens: Tensor,
    t: Tensor,
    attention_mask: Tensor,
    labels: Tensor | None = None,
    clean: Tensor | None = None,
) -> dict[str, Tensor]:
    """What a forward pass of `model` is given: tokens int64 [B, L] at times t [B], attending where the mask int64 [B, L] is 1.

    labels: int64 [B], -1 for no label; they go as `class_labels`, to a model whose forward takes them. clean: the tokens without
    their noise, which go as `clean_ids` to one that takes those: where blocks are learnt, those before a block are clean.
    """
    given = {"input_ids": tokens, "attention_mask": attention_mask, **time_arguments(model, t)}
    more = {"class_labels": labels, "clean_ids": clean}
    return given | {name: each for name, each in more.items() if each is not None and _takes(model, name)}


def num_classes(model: Any) -> int:
    """How many labels the model knows."""
    return int(model.config.num_classes) if _takes(model, "class_labels") else 0


def time_input(model: Any) -> TimeInput:
    """What the model's answer follows of the time: nothing, t itself, or -ln alpha(t)."""
    told = getattr(model.config, "time_conditioning", "t")
    if not _takes(model, "timesteps") or told not in ("t", "sigma"):
        return "none"
    return "sigma" if told == "sigma" else "t"


def block_size(model: Any) -> int | None:
    """The positions of a block, where a position sees none of the blocks after its own; None where it sees all positions."""
    return getattr(model.config, "causal_block_size", None)


def max_positions(model: Any) -> int | None:
    """The longest sequence the model takes; RoBERTa's kind of position table spends its first rows on padding."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None or limit <= 0:
        return None
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return int(limit) if padding is None else int(limit) - padding - 1


def probe(model: Any) -> dict[str, Tensor]:
    """The arguments of a small forward pass, 2 x 6 tokens, to find out how `model` behaves."""
    device, vocab_size = next(model.parameters()).device, model.config.get_text_config().vocab_size
    tokens = torch.arange(12, device=device).view(2, 6) * 7 % vocab_size
    return forward_arguments(model, tokens, torch.tensor([0.25, 0.75], device=device), torch.ones_like(tokens))


def time_arguments(model: nn.Module, t: Tensor) -> dict[str, Tensor]:
    """How `model` is told the time: `timesteps`, t itself, if its forward takes it. t: [B], in (0, 1]; it goes as float32."""
    return {"timesteps": t.float()} if _takes(model, "timesteps") else {}


def _takes(model: nn.Module, name: str) -> bool:
    """Whether a forward pass has a parameter of that name. Wrappers, torch.compile's for one, are looked through."""
    inner: nn.Module | None = model
    while inner is not None:
        if name in _parameters(type(inner).forward):
            return True
        inner = getattr(inner, "module", getattr(inner, "_orig_mod", None))
    return False


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    """Asked before every forward pass, found out once: reading a signature takes longer than a small layer."""
    return frozenset(parameter_names(forward))


def parameter_names(function: Callable[..., Any]) -> list[str]:
    """Those of its call; none for what does not tell, such as a traced function."""
    try:
        return list(inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters)
    except (TypeError, ValueError):
        return []
