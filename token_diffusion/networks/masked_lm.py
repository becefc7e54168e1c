"""How any masked LM of transformers is called, in training and in sampling: its time input, its head in places and in pieces."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import cache, partial
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .last_layer import Stretch, find_stretch

TimeInput = Literal["none", "t", "sigma"]


class Head:
    """The vocabulary head of a masked LM, to be run only at positions asked for.

    It is reached without knowing the architecture: a hook on the body (`base_model`) hands the head only the hidden states
    at those positions. Whether this model allows it is tried once, on a few tokens, against its plain forward pass.

    gathers: whether it does; if not, all logits have to be computed. stretch: of the body's last layer, what is run at those
    positions alone too, where no gradients are wanted: on the way back a layer may be computed again, with no hook around it.
    """

    def __init__(self, model: Any) -> None:
        self._body = getattr(model, "base_model", model)
        self.stretch: Stretch | None = None
        self.gathers = self._body is not model and self._is_exact(model)
        if self.gathers:
            self.stretch = self._find_stretch(model)

    @contextmanager
    def at(self, positions: Tensor) -> Iterator[None]:
        """In here the model's logits are [1, n, V], those at `positions` int64 [n], indices into the flattened [B * L]."""
        handle = self._body.register_forward_hook(partial(_gather, positions))
        stretch = None if torch.is_grad_enabled() else self.stretch
        try:
            with stretch.at(positions) if stretch else nullcontext():
                yield
        finally:
            handle.remove()

    def in_pieces(self, ask: Callable[[], Tensor], positions: Tensor, size: int) -> Pieces:
        """Logits at `positions`, of which `size` are there at a time; the body runs once, now, the head once a piece.

        ask: a forward pass, the logits flattened to [n, V].
        """
        outputs: list[Any] = []
        handle = self._body.register_forward_hook(partial(_keep, outputs, positions, size))
        try:
            first = ask()
        finally:
            handle.remove()
        (output,) = outputs

        def head(number: int) -> Tensor:
            some = slice(number * size, (number + 1) * size)
            self._body.forward = lambda *arguments, **named: replaced(output, output[0][:, some])
            try:
                return ask()
            finally:
                del self._body.forward

        return Pieces(head, first, len(positions))

    @torch.inference_mode()
    def _is_exact(self, model: Any) -> bool:
        """One batch through both ways. A model that this breaks, which raises whatever its own code raises, does not allow it."""
        inputs = probe(model)
        positions = torch.tensor([1, 6, 11], device=inputs["input_ids"].device)
        try:
            with evaluated(model):
                plain = model(**inputs).logits.flatten(0, 1)[positions].float()
                with self.at(positions):
                    gathered = model(**inputs).logits.flatten(0, -2).float()
        except Exception:
            return False
        tolerance = 2e-2 * plain.abs().max().item()
        return gathered.shape == plain.shape and torch.allclose(gathered, plain, rtol=0, atol=tolerance)

    @torch.inference_mode()
    def _find_stretch(self, model: Any) -> Stretch | None:
        vocab_size = model.config.get_text_config().vocab_size

        def ask(tokens: Tensor, mask: Tensor) -> Any:
            t = torch.tensor([0.25, 0.75], device=tokens.device)
            return model(**forward_arguments(model, tokens % vocab_size, t, mask))

        try:
            with evaluated(model):
                return find_stretch(self._body, ask)
        except Exception:  # whatever its own code raises, for instance of more than six tokens
            return None


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """In here it is in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _gather(positions: Tensor, body: nn.Module, arguments: Any, output: Any) -> Any:
    """A hook: replaces the body's hidden states [B, L, H] by [1, n, H]."""
    return replaced(output, output[0].flatten(0, 1)[positions].unsqueeze(0))


def _keep(outputs: list[Any], positions: Tensor, size: int, body: nn.Module, arguments: Any, output: Any) -> Any:
    """The same, but the head is given the first `size` of them; all are kept in `outputs`."""
    outputs.append(_gather(positions, body, arguments, output))
    return replaced(outputs[0], outputs[0][0][:, :size])


def replaced(output: Any, hidden: Tensor) -> Any:
    """A body's output with other hidden states."""
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    output = copy(output)
    output.last_hidden_state = hidden
    return output


class Pieces:
    """Logits [n, V] to be looked at in slices, from the first to the last: one piece of them is there at a time.

    Args:
        head: makes the piece of a number, all but the last as long as the `first`. count: n.
    """

    def __init__(self, head: Callable[[int], Tensor], first: Tensor, count: int) -> None:
        self.device, self.shape, self.size = first.device, (count, first.shape[1]), len(first)
        self._head, self._number, self._piece = head, 0, first

    @property
    def slices(self) -> list[slice]:
        """Of a piece each."""
        return [slice(start, start + self.size) for start in range(0, self.shape[0], self.size)]

    def __getitem__(self, some: slice) -> Tensor:
        start, stop, _ = some.indices(self.shape[0])
        numbers = range(start // self.size, max(start // self.size + 1, -(-stop // self.size)))
        parts = [
            self._at(number)[max(0, start - number * self.size) : stop - number * self.size] for number in numbers
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def split(self, sizes: Sequence[int]) -> list[Part]:
        """So many of them each, one after the other, as of a tensor."""
        ends = list(accumulate(sizes))
        return [Part(self, end - size, end) for size, end in zip(sizes, ends, strict=True)]

    @torch.inference_mode()
    def _at(self, number: int) -> Tensor:
        if number != self._number:
            self._piece = self._piece[:0]  # before the next one is made
            self._number, self._piece = number, self._head(number)
        return self._piece


class Part:
    """Some of the logits that come in pieces, themselves in those pieces."""

    def __init__(self, whole: Pieces, start: int, stop: int) -> None:
        self.device, self.shape = whole.device, (stop - start, whole.shape[1])
        self._whole, self._start = whole, start

    @property
    def slices(self) -> list[slice]:
        stop = self._start + self.shape[0]
        edges = [self._start, *(each.start for each in self._whole.slices if self._start < each.start < stop), stop]
        return [slice(start - self._start, end - self._start) for start, end in pairwise(edges)]

    def __getitem__(self, some: slice) -> Tensor:
        start, stop, _ = some.indices(self.shape[0])
        return self._whole[self._start + start : self._start + stop]


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
