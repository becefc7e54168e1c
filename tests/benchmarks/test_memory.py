"""Large folders in small, and what a process takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from benchmarks.network import large
from benchmarks.network.large import SHAPES, save_large
from benchmarks.network.memory import watched
from token_diffusion.checkpoint import load_checkpoint


def test_a_folder_is_laid_out_as_llada_s_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "SHARD_BYTES", 9 * 2**20)
    shape = SHAPES["tiny"]
    assert save_large(tmp_path, shape) == sum(torch.Size(size).numel() for size in shape.sizes.values())
    shards = sorted(tmp_path.glob("model-*-of-00002.safetensors"))
    assert len(shards) == 2 and all(shard.stat().st_size < 10 * 2**20 for shard in shards)
    seen = []
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            seen += list(file.keys())
    assert sorted(seen) == sorted(shape.sizes)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.family == "llada" and checkpoint.model.dtype == torch.bfloat16
    assert checkpoint.scheduler.config.mask_token_id == large.MASK


def test_the_8b_shape_has_the_parameters_that_llada_has() -> None:
    count = sum(torch.Size(size).numel() for size in SHAPES["llada-8b"].sizes.values())
    assert count == 8_015_581_184


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it is Linux's")
def test_a_process_is_watched_while_it_takes_memory() -> None:
    with watched(os.getpid()) as before:
        before.over.wait(0.1)
    with watched(os.getpid()) as peak:
        taken = torch.ones(2**26)  # 256 MiB
        peak.over.wait(0.2)
        del taken
    assert peak.anonymous - before.anonymous == pytest.approx(0.25, abs=0.1)
    assert peak.both >= peak.anonymous and peak.files > 0
