"""Packed linear layers: the plain layer's products, gradients and weights, and used only where they are sooner done."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import save_tiny, tiny_model
from token_diffusion.checkpoint import load_checkpoint, save_checkpoint
from token_diffusion.networks.cpu import packing
from token_diffusion.networks.cpu.packing import PackedLinear, is_supported, pack

pytestmark = pytest.mark.skipif(not is_supported(torch.float32), reason="oneDNN is not there")
HAS_BFLOAT16 = is_supported(torch.bfloat16)
DTYPES = [
    (torch.float32, 1e-6),
    pytest.param(torch.bfloat16, 1e-2, marks=pytest.mark.skipif(not HAS_BFLOAT16, reason="no bfloat16 in oneDNN")),
]


def both(dtype: torch.dtype = torch.float32, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """The same layer, plain and packed."""
    torch.manual_seed(0)
    plain = nn.Linear(48, 70, bias=bias).to(dtype)
    packed = copy.deepcopy(plain)
    pack(packed)
    return plain, packed


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_its_products_are_those_of_the_plain_layer(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    plain, packed = both(dtype, bias)
    assert type(packed) is PackedLinear
    inputs = [
        torch.randn(3, 48),
        torch.randn(2, 3, 48),
        torch.randn(48),
        torch.randn(0, 48),
        torch.randn(48, 5).t(),
        torch.randn(5, 96)[:, ::2],
    ]
    for each in inputs:
        expected, found = plain(each.to(dtype)), packed(each.to(dtype))
        assert found.shape == expected.shape and found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert packed._packed is not None, "the plain product was taken"


def _fused_step(layer: nn.Linear) -> None:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.5, fused=True)
    layer(torch.ones(1, 48)).sum().backward()
    optimizer.step()


def _rounded(layer: nn.Linear) -> None:
    layer.bfloat16().float()


def _narrowed(layer: nn.Linear) -> None:
    layer.bfloat16()


def _assigned(layer: nn.Linear) -> None:
    layer.load_state_dict({name: value * 2 for name, value in layer.state_dict().items()}, assign=True)


def _replaced(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight.detach() * 2)


def _resized(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(torch.cat([layer.weight, layer.weight[:8]]).detach())
    layer.bias = nn.Parameter(torch.cat([layer.bias, layer.bias[:8]]).detach())


def _behind_its_back(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data * 2


@pytest.mark.parametrize(
    "change",
    [_fused_step, _rounded, _narrowed, _assigned, _replaced, _resized, _behind_its_back],
    ids=lambda f: f.__name__,
)
def test_weights_that_change_are_packed_anew(change: Callable[[nn.Linear], None]) -> None:
    plain, packed = both()
    x = torch.randn(3, 48)
    with torch.inference_mode():
        before = packed(x)
    for layer in (plain, packed):
        change(layer)
    with torch.inference_mode():
        after = packed(x.to(packed.weight.dtype))
        torch.testing.assert_close(after, plain(x.to(plain.weight.dtype)), rtol=1e-5, atol=1e-5)
    assert after.shape != before.shape or not torch.equal(after, before)


@torch.inference_mode()
def test_weights_made_in_inference_mode_are_the_plain_layer_s() -> None:
    plain, packed = both()
    assert packed.weight.is_inference()
    x = torch.randn(3, 48)
    assert torch.equal(packed(x), plain(x))


@torch.no_grad()
def test_a_compiler_sees_the_plain_layer() -> None:
    plain, packed = both()
    x = torch.randn(3, 48)
    compiled = torch.compile(packed, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), plain(x)) and packed._packed is None


def test_it_learns_as_the_plain_layer_does() -> None:
    plain, packed = both()
    x = torch.randn(3, 48)
    with torch.inference_mode():
        packed(x)
    for layer in (plain, packed):
        layer(x).square().sum().backward()
    assert plain.weight.grad is not None and packed.weight.grad is not None
    assert torch.equal(packed.weight.grad, plain.weight.grad)


@torch.no_grad()
def test_autocast_and_other_types_are_the_plain_layer_s() -> None:
    plain, packed = both()
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(torch.randn(3, 48)).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="dtype"):
        packed(torch.randn(3, 48, dtype=torch.float64))
    assert packed._packed is None
    plain, packed = plain.double(), packed.double()
    x = torch.randn(3, 48, dtype=torch.float64)
    assert torch.equal(packed(x), plain(x))


@torch.no_grad()
def test_a_packed_model_can_be_copied_and_saved(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save_tiny(tmp_path / "tiny", "absorbing"))
    plain: Any = tiny_model()
    plain.load_state_dict(checkpoint.model.state_dict())
    pack(checkpoint.model)
    tokens = torch.arange(5, 15).unsqueeze(0)
    found = checkpoint.model(input_ids=tokens).logits
    torch.testing.assert_close(found, plain(input_ids=tokens).logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(copy.deepcopy(checkpoint.model)(input_ids=tokens).logits, found)
    save_checkpoint(tmp_path / "again", checkpoint.model, checkpoint.tokenizer, checkpoint.scheduler)
    again = load_checkpoint(tmp_path / "again").model.state_dict()
    assert again.keys() == plain.state_dict().keys()
    assert all(torch.equal(weights, plain.state_dict()[name]) for name, weights in again.items())


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "distilbert", "token-diffusion"])
@torch.inference_mode()
def test_every_linear_layer_of_a_loaded_network_is_packed_where_it_pays(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny(tmp_path / "tiny", "absorbing", architecture)
    kinds = {}
    for sooner in (True, False):
        monkeypatch.setattr(packing, "pays", lambda device, dtype, sooner=sooner: sooner)
        kinds[sooner] = load_checkpoint(folder)
    counts = {
        sooner: sum(type(layer) is PackedLinear for layer in checkpoint.model.modules())
        for sooner, checkpoint in kinds.items()
    }
    assert counts[True] == sum(type(layer) is nn.Linear for layer in kinds[False].model.modules()) > 0
    assert counts[False] == 0

    def ask(sooner: bool) -> Tensor:
        tokens = torch.arange(5, 25).unsqueeze(0)
        valid = torch.ones_like(tokens, dtype=torch.bool)
        return kinds[sooner].denoiser(tokens, torch.ones(1), valid, torch.tensor([3, 7]))

    torch.testing.assert_close(ask(True), ask(False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("room", "packed"), [(None, True), (4 * 48 * 70 * 2, True), (4 * 48 * 70 * 2 - 1, False)])
def test_it_is_packed_only_where_twice_the_copy_is_free(
    room: int | None, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "pays", lambda device, dtype: True)
    monkeypatch.setattr(packing, "free", lambda: room)
    network = nn.Sequential(nn.Linear(48, 70), nn.LayerNorm(70))
    assert packing.copy_size(network) == 4 * 48 * 70
    assert packing.pack_where_it_pays(network) is packed
    assert isinstance(network[0], PackedLinear) is packed
    if isinstance(network[0], PackedLinear):
        assert network[0]._packed is not None, "the next network would find its memory free"


def test_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(packing.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    for intel in (True, False):
        monkeypatch.setattr(packing, "made_by_intel", lambda intel=intel: intel)
        assert packing.pays(cpu, torch.float32) is not intel
        assert packing.pays(cpu, torch.bfloat16) is HAS_BFLOAT16
        assert not packing.pays(cpu, torch.float16)
        assert not packing.pays(torch.device("cuda"), torch.float32)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not packing.pays(cpu, torch.float32), (
        "without MKL the plain layer's products are oneDNN's or another library's"
    )
    monkeypatch.setattr(packing.platform, "machine", lambda: "arm64")
    assert not packing.pays(cpu, torch.bfloat16)
