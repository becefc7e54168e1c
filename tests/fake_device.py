"""An accelerator that computes on the CPU, to count what would make the CPU wait for it.

It calls itself "meta", the one other device that every build of torch knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from token_diffusion.diffusion import devices

aten: Any = torch.ops.aten
DEVICE = torch.device("meta")
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
READS |= {aten._unique2.default, aten.unique_consecutive.default, aten.bincount.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


class OnDevice(Tensor):
    """A tensor there; `value` is what it holds."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> OnDevice:
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), dtype=value.dtype, device=DEVICE
        )
        made.value = value
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError(f"{function} outside of FakeDevice")


class FakeDevice(TorchDispatchMode):
    """In here a tensor sent to `DEVICE` is an `OnDevice`. waits: what made the CPU wait for the device, in their order."""

    def __init__(self, monkeypatch: Any) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._pinned: list[Tensor] = []
        monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: self._pin(tensor))
        monkeypatch.setattr(devices, "PINNED", {DEVICE.type})

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned.append(tensor.clone())
        return self._pinned[-1]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        with self:  # in inference mode what is made of other operations comes here whole
            made = function.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        leaves = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        there = [each for each in leaves if isinstance(each, OnDevice)]
        here = [each for each in leaves if not isinstance(each, OnDevice)]
        target = kwargs.get("device")
        goes_there = bool(there) if target is None else torch.device(target) == DEVICE
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        if there:
            self._look(function, args, kwargs, here, goes_there)
        elif goes_there and here and not self._is_queued(here, kwargs):
            self.waits.append(f"{function} from the CPU")
        found = function(*tree_map(_value, args), **tree_map(_value, kwargs))
        if function._schema.name.endswith("_") and isinstance(args[0], OnDevice):
            return args[0]
        return (
            tree_map(lambda each: OnDevice(each) if isinstance(each, Tensor) else each, found) if goes_there else found
        )

    def _look(self, function: Any, args: Any, kwargs: Any, here: list[Tensor], goes_there: bool) -> None:
        """Notes what waits; what an accelerator would refuse is refused."""
        if function in READS or (function in COPIES and not goes_there):
            self.waits.append(str(function))
        elif function in INDEXING:
            indices = [each for each in args[1] if each is not None]
            if any(each.dtype == torch.bool or not isinstance(each, OnDevice) for each in indices):
                self.waits.append(f"{function} by a mask, or from the CPU")
        elif function is aten.copy_.default and isinstance(args[0], OnDevice) is not isinstance(args[1], OnDevice):
            if not self._is_queued(here, kwargs):
                self.waits.append(f"{function} from the CPU")
        else:
            assert all(each.dim() == 0 for each in here), f"{function} of tensors on both devices"

    def _is_queued(self, here: list[Tensor], kwargs: Any) -> bool:
        pinned = all(any(each is pin for pin in self._pinned) for each in here)
        return pinned and bool(kwargs.get("non_blocking"))


def _value(each: Any) -> Any:
    return each.value if isinstance(each, OnDevice) else each
