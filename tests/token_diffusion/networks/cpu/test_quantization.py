"""int8: near the float network, and apart from neighbours in spite of scales that a forward pass shares."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tiny import save_tiny
from token_diffusion import ParameterError
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.engine.batch import Batch
from token_diffusion.networks.cpu.quantization import quantised
from token_diffusion.networks.rowwise import Rowwise
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import OPEN


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_logits_are_near_those_of_the_float_network(tmp_path: Path, architecture: str) -> None:
    folder = save_tiny(tmp_path / "tiny", "absorbing", architecture)
    exact, int8 = (load_checkpoint(folder, dtype=dtype) for dtype in ("float32", "int8"))
    assert int8.dtype == "int8" and isinstance(int8.denoiser, Rowwise)
    tokens = torch.arange(5, 25).unsqueeze(0)
    arguments = (tokens, torch.ones(1), torch.ones_like(tokens, dtype=torch.bool), torch.arange(20))
    a, b = exact.denoiser(*arguments), int8.denoiser(*arguments)
    assert 0 < float((a - b).abs().mean() / a.std()) < 0.2
    assert float((a.argmax(-1) == b.argmax(-1)).double().mean()) >= 0.7


def test_neighbours_change_nothing(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save_tiny(tmp_path / "tiny", "uniform"), dtype="int8")

    def run(*keys: int) -> dict[Any, list[list[int]]]:
        batch = Batch(checkpoint.denoiser, checkpoint.scheduler)
        for key in keys:
            batch.add(key, [OPEN] * 12, SamplingParameters(12, 2, 16, seed=key))
        found: dict[Any, list[list[int]]] = {}
        while not batch.idle:
            found |= {update.key: update.result.tokens for update in batch.step() if update.result}
        return found

    together = run(1, 2, 3, 4)
    assert together == run(1) | run(2) | run(3) | run(4)


def test_an_accelerator_is_refused() -> None:
    denoiser: Any = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(ParameterError, match="dtype must be int8 on a CPU only, got 'cuda'"):
        quantised(denoiser)
