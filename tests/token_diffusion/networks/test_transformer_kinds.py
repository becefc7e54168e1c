"""The network as DiT has it: a GELU MLP with biases, gates around 0, a head with a bias, one time for all, and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM

from tests.tiny import tiny_model
from token_diffusion import ParameterError, TokenDiffusionForMaskedLM
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.networks.transformer.layers import GELUMLP

DIT: dict[str, Any] = {
    "mlp": "gelu",
    "gate_offset": 0.0,
    "head_bias": True,
    "max_frequency": 1.0,
    "tie_word_embeddings": False,
}
CLASSES = 3


def dit(time_conditioning: str = "sigma", num_classes: int = CLASSES, seed: int = 1) -> TokenDiffusionForMaskedLM:
    """A tiny one in evaluation mode, no number of which is 0."""
    options = DIT | {"time_conditioning": time_conditioning, "cond_dim": 16, "num_classes": num_classes}
    model: Any = tiny_model("token-diffusion", **options)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    assert isinstance(model, TokenDiffusionForMaskedLM)
    return model


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(50, (4, 9), generator=generator), torch.rand(4, generator=generator)


@torch.inference_mode()
def logits(model: TokenDiffusionForMaskedLM, labels: Tensor | None = None, t: Tensor | None = None) -> Tensor:
    tokens, drawn = batch()
    return model(tokens, timesteps=drawn if t is None else t, class_labels=labels).logits


def test_each_row_has_its_label() -> None:
    model, labels = dit(), torch.tensor([0, 2, -1, 1])
    together = logits(model, labels)
    for row, label in enumerate(labels):
        alone = logits(model, label.expand(4))
        torch.testing.assert_close(alone[row], together[row], rtol=0, atol=1e-5)
    without = logits(model)
    assert ((together - without).abs().amax((1, 2)) > 1e-3).tolist() == [True, True, False, True]


def test_a_label_that_there_is_not_is_no_other() -> None:
    with pytest.raises(IndexError):
        logits(dit(), torch.tensor([0, 1, 2, CLASSES + 1]))


def test_a_network_without_labels_takes_none() -> None:
    model = dit(num_classes=0)
    assert logits(model, torch.tensor([0, 1, 2, 0])).equal(logits(model))
    assert MaskedLMDenoiser(model).num_classes == 0
    assert MaskedLMDenoiser(dit()).num_classes == CLASSES


def test_one_that_is_told_zero_needs_no_time() -> None:
    model = dit("zero")
    tokens, t = batch()
    with torch.inference_mode():
        untimed = model(tokens).logits
    assert logits(model, t=t).equal(untimed)
    sigma = dit("sigma")  # alpha = 1, sigma = 0 at t = 0
    sigma.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(sigma, t=torch.zeros(4)), untimed)


def test_gates_around_zero_leave_branches_out_before_training() -> None:
    """Then the network is its embedding and its head (adaLN-Zero of DiT)."""
    model: Any = tiny_model("token-diffusion", **DIT | {"time_conditioning": "t"})
    tokens, _ = batch()
    with torch.inference_mode():
        expected = model.lm_head(torch.nn.functional.layer_norm(model.model.embed_tokens(tokens), (32,)))
    torch.testing.assert_close(logits(model), expected)


def test_biases_start_at_zero() -> None:
    model: Any = tiny_model("token-diffusion", **DIT | {"time_conditioning": "t"})
    mlps = [module for module in model.modules() if isinstance(module, GELUMLP)]
    assert len(mlps) == 2
    for mlp in mlps:
        assert not mlp.input.bias.any() and not mlp.output.bias.any()
    assert not model.lm_head.bias.any()


@pytest.mark.parametrize("time_conditioning", ["zero", "sigma"])
def test_what_is_saved_is_what_is_loaded(time_conditioning: str, tmp_path: Path) -> None:
    model, labels = dit(time_conditioning), torch.tensor([0, 2, -1, 1])
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert logits(loaded, labels).equal(logits(model, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlp": "relu"}, "mlp must be one of swiglu, gelu, got 'relu'"),
        ({"num_classes": 2}, "num_classes must be >= 0, and 0 where time_conditioning is none, got 2"),
        ({"num_classes": -2, "time_conditioning": "t"}, "num_classes must be >= 0"),
        ({"causal_block_size": 0}, "causal_block_size must be >= 1, got 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        AutoConfig.for_model("token-diffusion", **options)
