"""Backends beside the products alone: what is counted, what is run, and what a backend that refuses is told as."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from benchmarks import models
from benchmarks.__main__ import make_parser
from benchmarks.backends import contenders, loading, part, passes, seeds
from benchmarks.backends.contenders import PLAIN, Contender, willing
from benchmarks.backends.products import Products, products_of, run
from benchmarks.report import Table
from tests.tiny import tiny_model
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.networks.cpu.packing import is_supported
from token_diffusion.networks.denoiser import MaskedLMDenoiser

pytest_plugins = ["tests.server_fixtures"]


def small(rows: int, length: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a tiny network is asked in a large one's place."""
    tokens = torch.arange(rows * length).view(rows, length) % 50
    return (
        tokens,
        torch.ones(rows),
        torch.ones(rows, length, dtype=torch.bool),
        torch.arange(min(count, tokens.numel())),
    )


def refusing(path: Path, *, backend: str, **options: Any) -> Any:
    """`load_checkpoint` where nothing but torch is installed."""
    if backend != "torch":
        raise ParameterError("backend", "be installed", backend)
    return load_checkpoint(path, backend=backend, **options)


def test_the_products_are_those_of_the_pass_and_no_others() -> None:
    model: Any = tiny_model()
    denoiser, arguments = MaskedLMDenoiser(model), small(3, 8, 5)
    kernels, operations = products_of(denoiser, arguments)
    layers = sum(isinstance(layer, nn.Linear) for layer in model.modules())
    assert len(kernels) == layers + model.config.num_hidden_layers
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        denoiser(*arguments)
    assert operations == counter.get_total_flops()
    run(kernels)


def test_every_kernel_of_a_linear_layer_gives_what_the_layer_gives() -> None:
    layer, input = nn.Linear(16, 24), torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), Products() as products:
        output = layer(input)
    with torch.inference_mode():
        found = [kernel() for kernel in products.kernels[0]]
    assert len(found) == 1 + is_supported(torch.float32)
    assert all(torch.allclose(each, output, atol=1e-5) for each in found)


def test_a_network_without_products_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="linear layers"):
        products_of(lambda *arguments: torch.zeros(2, 50), small(1, 4, 2))  # type: ignore[arg-type]


def test_passes_are_of_those_that_can_be_measured(
    tiny_folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "load_checkpoint", refusing)
    monkeypatch.setattr(passes, "asked", small)
    monkeypatch.setattr(passes, "SHAPES", ((2, 8, 3),))
    found = [Contender(tiny_folders["absorbing"], who, "float32") for who in (PLAIN, "torch", "openvino")]
    assert [each.backend for each in willing(found)] == [PLAIN, "torch"]
    table = passes.passes(found, rounds=2)
    assert list(table.columns)[3:] == ["torch, plain ms", "torch ms"]
    assert table.rows[0][0] == "2 x 8, 3" and all("(" in str(cell) for cell in table.rows[0][3:])


def small_model(device: str = "cpu", dtype: str = "float32") -> Any:
    """The random model with one narrow layer."""
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertForMaskedLM(BertConfig(**sizes)).to(getattr(torch, dtype)).eval()


def test_a_section_has_every_table_and_who_refuses_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "load_checkpoint", refusing)
    for module in (models, seeds):
        monkeypatch.setattr(module, "random_model", small_model)
    for module in (part, seeds):
        monkeypatch.setattr(module, "DTYPES", ("float32",))
    for module in (passes, loading):
        monkeypatch.setattr(module, "SHAPES", ((2, 8, 3),))
    monkeypatch.setattr(part, "cost", lambda *arguments: loading._cost(Contender(*arguments)))
    words = ["backends", "--quick", "--backends", "torch", "openvino", "--only", "mdlm"]
    found = part.section(make_parser().parse_args(words))
    _, samples, costs = (each for each in found.parts if isinstance(each, Table))
    assert not found.failures

    row: dict[str, Any] = dict(zip(samples.columns, *samples.rows, strict=True))
    assert (row["sampler"], row["by"], row["type"], row["torch float32 / ours"]) == ("mdlm", "torch", "float32", 1.0)
    assert all(row[name] > 0 for name in ("textbook s", "ours s", "textbook / ours", "ours / forward passes"))

    plain, packed, refused = costs.rows
    assert plain[2] == "0e+00" and float(str(packed[2])) < 1e-4
    assert packed[3] == pytest.approx(0, abs=1e-5) and packed[5] == "0 of 24"
    assert all(cell >= 0 for cell in packed[6:])  # type: ignore[operator]
    assert refused[:3] == ("openvino", "float32", "backend must be installed, got 'openvino'")


def test_the_aim_in_bfloat16_is_of_cpus_that_have_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, said in ((True, "3"), (False, "no AMX here")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has: has)
        assert (seeds.aim("float32"), seeds.aim("bfloat16")) == ("1.3", said)
