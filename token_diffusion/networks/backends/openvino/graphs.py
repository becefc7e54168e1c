"""What of a masked LM OpenVINO is given: the body up to the asked positions, and the head, each as a graph of its own.

Two graphs, as the head may be run on a piece of the positions at a time, after one pass of the body. A graph is what torch does
in one pass over an example, with lengths and numbers of rows left open. So the example goes the general way: it has padding,
for which networks make no mask where there is none, and is longer than a block where a network knows blocks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from ...behaviour import behaviour
from ...denoiser import MaskedLMDenoiser
from ...masked_lm import Head, forward_arguments, max_positions, replaced, time_input
from ...transformer.layers import TimeEmbedding
from .agreement import questions
from .library import Compiled, openvino

Embedded = Callable[[Tensor], Tensor]
"""Times [B] -> what a network makes of them first, float32 [B, 1, C]."""

LENGTH = 37
"""Tokens of the example's longest row, where it need not be longer, and may be so long."""


def body_graph(plain: MaskedLMDenoiser, embedded: Embedded | None) -> Compiled:
    """tokens, t, valid, positions, labels, as a denoiser is given them -> hidden states [n, H], or, where the head cannot be
    asked at some positions alone, logits [n, V].

    embedded: if the network is told the time by it, t is what this makes of it.
    """
    inputs, shortest = example(plain), behaviour(plain.model).grouping.shortest
    with torch.no_grad():
        if embedded is not None:
            inputs["t"] = embedded(inputs["t"])
        shapes = [
            _shapes(len(tokens), max(tokens.shape[1], shortest), len(positions), inputs["t"].shape[1:])
            for tokens, _, _, positions, *_ in questions(plain)
        ]
        return _compiled(_Body(plain.model, plain.head, embedded is not None), inputs, shapes)


def head_graph(plain: MaskedLMDenoiser) -> Compiled:
    """hidden, the states [n, H] that the body gives -> logits [n, V]."""
    inputs = _arguments(plain.model, **example(plain))
    with torch.no_grad():
        output = plain.model.base_model(**inputs)
        hidden = output[0].flatten(0, 1)[:7].float()
        shapes = [{"hidden": [count, hidden.shape[1]]} for count in (1, 5)]
        return _compiled(_Head(plain.model, output, inputs), {"hidden": hidden}, shapes)


def time_embedding(model: Any) -> Embedded | None:
    """By what torch is to embed the times: -ln alpha(t) takes float64, in whose place OpenVINO has float32 on a CPU, and is
    multiplied by a hundred. None in networks that are told no time, and in those of others.
    """
    found = getattr(getattr(model, "base_model", None), "embed_time", None)
    if not isinstance(found, TimeEmbedding) or time_input(model) == "none":
        return None
    own, dtype = deepcopy(found), next(found.parameters()).dtype
    return lambda t: own(t.float(), dtype).float()


def example(plain: MaskedLMDenoiser) -> dict[str, Tensor]:
    """The arguments of a denoiser's call: three rows of different lengths, at different times, with and without a label."""
    length = max(LENGTH, 2 * (plain.block_size or 0) + 1, behaviour(plain.model).grouping.shortest)
    length = min(length, max_positions(plain.model) or length)
    valid = torch.arange(length) < torch.tensor([[length], [length // 2 + 1], [length // 3 + 1]])
    return {
        "tokens": torch.arange(3 * length).view(3, length) * 7 % plain.model.config.get_text_config().vocab_size,
        "t": torch.tensor([0.75, 0.5, 0.25]),
        "valid": valid,
        "positions": valid.flatten().nonzero().squeeze(1)[::2],
        "labels": torch.tensor([-1, 0, max(0, plain.num_classes - 1)]),
    }


def _shapes(rows: int, length: int, count: int, told: Sequence[int]) -> dict[str, list[int]]:
    """Those of the body's inputs. told: of one row's time."""
    table = [rows, length]
    return {"tokens": table, "t": [rows, *told], "valid": table, "positions": [count], "labels": [rows]}


class _Body(nn.Module):
    """What the head is given at the positions; what it makes of that is left out of the graph, as nothing follows of it."""

    def __init__(self, model: Any, head: Head, embedded: bool) -> None:
        super().__init__()
        self.model, self._head, self._embedded = model, head, embedded

    def forward(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        times = tokens[:, 0].float() if self._embedded else t
        arguments = _arguments(self.model, tokens, times, valid, positions, labels)
        with _told(self.model, t) if self._embedded else nullcontext():
            if not self._head.gathers:
                return self.model(**arguments).logits.flatten(0, 1)[positions].float()
            with self._head.at(positions), _states(self.model) as states:
                self.model(**arguments)
        return states[0].flatten(0, 1).float()


class _Head(nn.Module):
    """The model, whose body gives `output` with other states, whatever it is asked."""

    def __init__(self, model: Any, output: Any, inputs: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self._output, self._inputs = model, output, inputs

    def forward(self, hidden: Tensor) -> Tensor:
        states = hidden.unsqueeze(0).to(self._output[0].dtype)
        with _instead(self.model.base_model, lambda *arguments, **named: replaced(self._output, states)):
            return self.model(**self._inputs).logits.flatten(0, 1).float()


def _arguments(
    model: Any, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    return forward_arguments(model, tokens, t, valid.long(), labels)


def _told(model: Any, condition: Tensor) -> AbstractContextManager[None]:
    """In here its embedded time is this, float32 [B, 1, C], whatever the time."""
    return _instead(model.base_model.embed_time, lambda timesteps, dtype: condition.to(dtype))


@contextmanager
def _instead(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """In here this is the module's forward pass."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@contextmanager
def _states(model: Any) -> Iterator[list[Tensor]]:
    """The hidden states that the body of `model` gives in here, as its hooks have left them."""
    found: list[Tensor] = []
    handle = model.base_model.register_forward_hook(lambda body, arguments, output: found.append(output[0]))
    try:
        yield found
    finally:
        handle.remove()


def _compiled(module: nn.Module, inputs: dict[str, Tensor], shapes: Sequence[dict[str, list[int]]]) -> Compiled:
    """Traced over `inputs`. Raises what torch and OpenVINO raise, the latter also where the graph is none for other `shapes`."""
    with _quiet():
        traced = torch.jit.trace(module.eval(), example_kwarg_inputs=inputs, check_trace=False, strict=False)
        # With shared ones it would hold on to float32 weights, and not to bfloat16 ones, and read what is no longer there.
        graph = openvino().convert_model(traced, share_weights=False)
    for each in shapes:  # where a compiled graph has a size fixed, it reads what is not there
        graph.clone().reshape(dict(enumerate(each.values())))
    return Compiled(graph, list(inputs))


@contextmanager
def _quiet() -> Iterator[None]:
    """In here nothing warns: torch does of each number that an example fixes, which is what `agreement` looks for."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
