"""The package itself: imported when it is asked for, and kept from telling anybody; how graphs are compiled, and asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ....errors import ParameterError

KEPT = 128
"""Of so many operations, each in one shape, a graph keeps the compiled code, a tenth of a megabyte and more, for when that shape
comes again. Left to itself it keeps 5000, and grows with each new length."""


@cache
def openvino() -> Any:
    """The package. Raises `ParameterError` if it is not installed.

    As it is imported it writes an id into the user's home and sends it to its makers, with the version and what is converted,
    unless the module that does so cannot be found. So none is found.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # this is how Python is told
    try:
        return import_module("openvino")
    except ImportError as error:
        raise ParameterError("backend", "be installed: pip install '.[openvino]'", "openvino") from error


@cache
def _core() -> Any:
    return openvino().Core()


def settings() -> dict[str, Any]:
    """How graphs are compiled: in the types they are written in, for one pass at a time on as many threads as torch has.

    Left to itself OpenVINO would compute float32 in bfloat16 where the processor has units for that, leave the second thread of
    each core out, and tie its threads to cores that other processes may want.
    """
    return {
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_HYPER_THREADING": True,
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": KEPT,
    }


class Compiled:
    """A graph of OpenVINO whose one output is float32 [n, width], as a function of torch's tensors by name.

    Not for two threads at a time.

    names: of its inputs, in the order of the graph's own.
    """

    def __init__(self, graph: Any, names: Sequence[str]) -> None:
        if len(names) != len(graph.inputs):
            raise ValueError(f"of {len(names)} inputs {len(graph.inputs)} are left")
        compiled = _core().compile_model(graph, "CPU", settings())
        self.width = int(compiled.output(0).partial_shape[1].get_length())
        self._names, self._request = list(names), compiled.create_infer_request()

    def __call__(self, count: int, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 [count, width], which nobody else writes to. inputs: more than the graph takes may be given."""
        output = torch.empty((count, self.width))
        if not count:
            return output
        tensor = openvino().Tensor
        self._request.set_output_tensor(tensor(output.numpy(), shared_memory=True))
        given = [tensor(inputs[name].contiguous().numpy(), shared_memory=True) for name in self._names]
        self._request.infer(given, share_inputs=True, share_outputs=True)
        return output
