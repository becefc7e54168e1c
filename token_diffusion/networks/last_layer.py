"""A network's last layer at the asked positions alone, from where in it each position goes its own way.

Positions meet in attention. What comes after it in a layer, and that is most of the layer's work, is done to each by itself: in
the last layer it need be done only to those whose logits are asked for. Where that begins and ends is found out by asking, and
kept by two hooks: one hands the stretch its positions alone, the other puts what comes out of it back in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MOST = 0.75
"""Of all positions: where more are asked for, the plain layer is as soon done as the gathered one."""

ROUNDING = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 4e-2}
"""What fewer positions may change, as a part of the largest value; float32's may be tf32."""

ASKED = [1, 4, 6, 9, 11]
"""Of 2 rows of 7 tokens. Of none is the one before it asked too, so that a body that shifts is seen to need more; and 7 is no
multiple of a window, so that one that adds padding is."""


@dataclass(frozen=True)
class Stretch:
    """A part of a network's last layer, from the input of one module to the output of another, the same one it may be."""

    first: nn.Module
    last: nn.Module

    @contextmanager
    def at(self, positions: Tensor, most: float = MOST) -> Iterator[None]:
        """In here it is run only at `positions` int64 [n], indices into the flattened [B * L]; its output is 0 elsewhere.

        most: a part of all positions; where more are asked for it is run everywhere.
        """
        shapes: list[tuple[int, int]] = []  # of the pass that is inside the stretch

        def gather(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            rows, length = next(each.shape[:2] for each in (*arguments, *named.values()) if _is_hidden(each))
            if not torch.jit.is_tracing() and len(positions) > most * rows * length:
                return None
            shapes.append((rows, length))
            taken = _mapped(lambda each: take(each, positions, rows, length), (arguments, *named.values()))
            return taken[0], dict(zip(named, taken[1:], strict=True))

        def scatter(module: nn.Module, arguments: Any, output: Any) -> Any:
            if not shapes:
                return None
            rows, length = shapes.pop()

            def put(each: Tensor) -> Tensor:
                whole = each.new_zeros((rows * length, each.shape[-1]))
                return whole.index_copy(0, positions, each.flatten(0, 1)).unflatten(0, (rows, length))

            return _mapped(put, output)

        handles = (
            self.first.register_forward_pre_hook(gather, with_kwargs=True),
            self.last.register_forward_hook(scatter),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def take(hidden: Tensor, positions: Tensor, rows: int, length: int) -> Tensor:
    """[B, L, H] -> [1, n, H] at `positions`; of what a row has once, [B, 1, H], each position gets its row's."""
    if hidden.shape[:2] == (rows, length):
        return hidden.flatten(0, 1)[positions].unsqueeze(0)
    if hidden.shape[:2] == (rows, 1):
        return hidden.flatten(0, 1)[positions // length].unsqueeze(0)
    return hidden


def find_stretch(body: nn.Module, ask: Callable[[Tensor, Tensor], Any]) -> Stretch | None:
    """The stretch of `body` with the most weights that gives what the plain pass gives; None where there is none.

    Costs two passes of 14 tokens, and some of its last layer alone. Values are compared inside the stretch too: so attention is
    seen to be there also where a gate, closed before training, hides what it does.

    ask: a forward pass of the model, in evaluation mode, of tokens int64 [2, 7] and their mask; whatever it raises is raised.
    """
    device = next(body.parameters()).device
    mask = torch.ones(2, 7, dtype=torch.int64, device=device)
    mask[1, 5:] = 0
    with recorded(body.modules()) as plain:
        ask(torch.arange(14, device=device).view(2, 7) * 5 + 1, mask)
    positions = torch.tensor(ASKED, device=device)
    layer = _last_layer(body, plain)
    if layer is None or layer is body:
        return None
    exact = (stretch for stretch in _candidates(layer, plain) if _is_exact(stretch, layer, plain, positions))
    stretch = next(exact, None)
    # what comes after the layer needs no other positions of one stretch than of another
    return stretch if stretch and _is_exact(stretch, body, plain, positions) else None


@dataclass
class Call:
    """Of a module in a pass: when it began and ended, what it was given and gave; of several calls, the last."""

    began: int
    ended: int
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    output: Any
    count: int = 1

    def tensors(self) -> list[Tensor]:
        return [each for each in _flat((self.arguments, *self.named.values(), self.output)) if _is_hidden(each)]


@contextmanager
def recorded(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Call]]:
    """In here the calls of these modules are written down."""
    calls: dict[nn.Module, Call] = {}
    clock = iter(range(2**31))

    def begin(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        count = calls[module].count + 1 if module in calls else 1
        calls[module] = Call(next(clock), -1, arguments, named, None, count)

    def end(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        calls[module].ended, calls[module].output = next(clock), output

    handles: list[Any] = []
    for module in modules:
        handles += [module.register_forward_pre_hook(begin, with_kwargs=True), module.register_forward_hook(end)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _last_layer(body: nn.Module, calls: dict[nn.Module, Call]) -> nn.Module | None:
    """Of what stands in lists of modules and is called once, what ends last."""
    listed = {each for modules in body.modules() if isinstance(modules, nn.ModuleList) for each in modules}
    once = [module for module in listed if module in calls and calls[module].count == 1]
    return max(once, key=lambda module: calls[module].ended, default=None)


def _candidates(layer: nn.Module, calls: dict[nn.Module, Call]) -> list[Stretch]:
    """Stretches that a layer may have, those first that do most: to its end from any module, or from one child to another.

    None begins or ends with a linear layer, which int8 may replace by another.
    """
    children = [each for each in layer.children() if each in calls]
    inside = [each for each in layer.modules() if each in calls and calls[each].count == 1]
    starts = [each for each in inside if each is not layer and not isinstance(each, nn.Linear)]
    pairs = [(start, end) for start in starts for end in ([layer, *children] if start in children else [layer])]
    work: dict[Stretch, int] = {}
    for start, end in pairs:
        began, ended = calls[start].began, calls[end].ended
        within = [each for each in inside if began <= calls[each].began and calls[each].ended <= ended]
        weights = {id(each): each for module in within for each in module.parameters(recurse=False) if each.dim() > 1}
        if began < ended and weights and not isinstance(end, nn.Linear) and _hidden_in(calls[start]):
            work[Stretch(start, end)] = sum(each.numel() for each in weights.values())
    return sorted(work, key=lambda stretch: work[stretch], reverse=True)


def _is_exact(stretch: Stretch, whole: nn.Module, plain: dict[nn.Module, Call], positions: Tensor) -> bool:
    """Whether each module of the stretch, and `whole` around it, gives at `positions` what it gave in the plain pass.

    Not if it raises anything, whatever its own code raises then.
    """
    began, ended = plain[stretch.first].began, plain[stretch.last].ended
    inside = [module for module, call in plain.items() if began <= call.began and call.ended <= ended]
    try:
        with stretch.at(positions), recorded({*inside, stretch.last, whole}) as calls:
            whole(*plain[whole].arguments, **plain[whole].named)
        if not all(_same(plain[module].tensors(), calls[module].tensors(), positions) for module in inside):
            return False
        outputs = [[each for each in _flat(given[whole].output) if _is_hidden(each)][:1] for given in (plain, calls)]
        return bool(outputs[0]) and _same(outputs[0], outputs[1], positions)
    except Exception:
        return False


def _same(plain: list[Tensor], gathered: list[Tensor], positions: Tensor) -> bool:
    """Whether the values at `positions` differ by no more than rounding does."""
    if len(plain) != len(gathered):
        return False
    for one, other in zip(plain, gathered, strict=True):
        expected, found = take(one, positions, 2, 7).float(), take(other, positions, 2, 7).float()
        scale = expected.abs().max().item()
        if expected.shape != found.shape or not (expected - found).abs().max().item() <= ROUNDING[one.dtype] * scale:
            return False
    return True


def _is_hidden(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point()


def _hidden_in(call: Call) -> bool:
    """Whether it is first of all given hidden states of all positions."""
    found = next((each for each in (*call.arguments, *call.named.values()) if _is_hidden(each)), None)
    return found is not None and found.shape[:2] == (2, 7)


def _mapped(function: Callable[[Tensor], Tensor], values: Any) -> Any:
    """`function` of each tensor of hidden states in `values`, itself or in tuples; all else as it is."""
    if isinstance(values, tuple):
        return tuple(_mapped(function, each) for each in values)
    return function(values) if _is_hidden(values) else values


def _flat(values: Any) -> Iterator[Any]:
    """What is in `values`, itself or in tuples and in what transformers gives for one."""
    if isinstance(values, tuple):
        for each in values:
            yield from _flat(each)
    elif isinstance(values, dict):
        yield from _flat(tuple(values.values()))
    else:
        yield values
