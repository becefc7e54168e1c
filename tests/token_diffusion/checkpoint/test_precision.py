"""The type of weights that is left to us: by the processor, by what the folder holds, and by what its network can do."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tests.tiny import MIXERS, mixer, save_tiny, tiny_tokenizer
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.__main__ import main
from token_diffusion.checkpoint import load_checkpoint, open_checkpoint, save_checkpoint
from token_diffusion.checkpoint.precision import ERROR, choose
from token_diffusion.networks.cpu import bfloat16


def processor(monkeypatch: pytest.MonkeyPatch, *, amx: bool = False, avx512: bool = False, packs: bool = True) -> None:
    """Another one in this one's place."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(bfloat16, "pays", lambda device, dtype: packs)


@pytest.mark.parametrize(
    ("has", "dtype", "why"),
    [
        ({"amx": True, "avx512": True}, "bfloat16", f"as this CPU has AMX; {ERROR}"),
        ({"avx512": True}, "bfloat16", f"as this CPU has AVX512_BF16; {ERROR}"),
        ({}, "float32", "as this CPU has no products in bfloat16"),
        ({"amx": True, "packs": False}, "float32", "as this CPU has no products in bfloat16"),
    ],
)
def test_by_the_processor(monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], dtype: str, why: str) -> None:
    processor(monkeypatch, **has)
    found = choose("cpu", is_bfloat16=False)
    assert (found.dtype, found.why) == (dtype, why)


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_by_the_gpu(monkeypatch: pytest.MonkeyPatch, native: bool, dtype: str) -> None:
    asked = []

    def is_supported(including_emulation: bool) -> bool:
        asked.append(including_emulation)
        return native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch.cuda, "_exchange_device", lambda index: index)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", lambda index: index)
    assert choose("cuda:1", is_bfloat16=False).dtype == dtype and asked == [False]
    assert choose("mps", is_bfloat16=False).dtype == "float32"


@pytest.mark.parametrize("avx512", [True, False])
def test_a_checkpoint_has_it_and_the_log_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, avx512: bool
) -> None:
    processor(monkeypatch, avx512=avx512)
    folder = save_tiny(tmp_path / "tiny", "absorbing")
    with caplog.at_level(logging.INFO, "token_diffusion"):
        checkpoint = load_checkpoint(folder, dtype="auto")
    dtype = "bfloat16" if avx512 else "float32"
    assert checkpoint.dtype == dtype and checkpoint.model.dtype == getattr(torch, dtype)
    why = choose("cpu", is_bfloat16=False).why
    assert [record.getMessage() for record in caplog.records] == [f"dtype auto for tiny: {dtype}, {why}"]
    caplog.clear()
    with caplog.at_level(logging.INFO, "token_diffusion"):
        assert load_checkpoint(folder).dtype == "float32"  # a default costs no exactness
    assert not caplog.records


def test_weights_in_bfloat16_stay_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch)
    folder = save_tiny(tmp_path / "tiny", "absorbing")
    half = load_checkpoint(folder, dtype="bfloat16")
    save_checkpoint(tmp_path / "half", half.model, half.tokenizer, half.scheduler)
    opened = open_checkpoint(tmp_path / "half", dtype="auto")
    assert (opened.dtype, opened.why) == ("bfloat16", "which the weights are")


def test_a_network_that_has_no_bfloat16_is_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    processor(monkeypatch, amx=True)
    assert "fnet" in MIXERS
    save_checkpoint(tmp_path / "fnet", mixer("fnet"), tiny_tokenizer(), TokenDiffusionScheduler(50, 4))
    with caplog.at_level(logging.INFO, "token_diffusion"):
        checkpoint = load_checkpoint(tmp_path / "fnet", dtype="auto")
    assert checkpoint.dtype == "float32" and checkpoint.model.dtype == torch.float32
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("dtype auto for fnet: float32, as bfloat16 cannot be: ") and "BFloat16" in line


def test_the_shell_says_it_on_stderr_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processor(monkeypatch, avx512=True)
    folder = save_tiny(tmp_path / "tiny", "absorbing")
    command = ["sample", "--checkpoint_path", str(folder), "--seq_len", "8", "--device", "cpu"]
    for _ in range(2):
        assert main([*command, "--dtype", "auto"]) == 0
        assert (
            capsys.readouterr().err.count(f"dtype auto for tiny: bfloat16, as this CPU has AVX512_BF16; {ERROR}\n")
            == 1
        )
    assert main(command) == 0
    assert "dtype auto" not in capsys.readouterr().err
