"""The last layer at the asked positions alone: it gives what the plain pass gives, or is left plain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import MIXERS, mixer, tiny_model
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.networks.last_layer import MOST, Stretch
from token_diffusion.networks.masked_lm import Head

STRETCHES = {
    "bert": ("bert.encoder.layer.1.attention.output", "bert.encoder.layer.1"),
    "roberta": ("roberta.encoder.layer.1.attention.output", "roberta.encoder.layer.1"),
    "electra": ("electra.encoder.layer.1.attention.output", "electra.encoder.layer.1"),
    "distilbert": ("distilbert.transformer.layer.1.sa_layer_norm", "distilbert.transformer.layer.1"),
    "modernbert": ("model.layers.1.mlp_norm", "model.layers.1.mlp"),
    "token-diffusion": ("model.blocks.1.mlp", "model.blocks.1"),
    "bidirectional-gpt2": ("transformer.h.1.ln_2", "transformer.h.1.mlp"),
    "bidirectional-llama": ("model.layers.1.mlp", "model.layers.1.mlp"),
}
"""Where in a network positions go their own ways: behind its last attention."""


def names(model: nn.Module, stretch: Stretch | None) -> tuple[str, str]:
    assert stretch is not None
    named = {module: name for name, module in model.named_modules()}
    return named[stretch.first], named[stretch.last]


def batch(rows: int = 3, length: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """tokens, t, valid, of which one row has padding, and some positions of each row."""
    tokens = torch.randint(5, 50, (rows, length), generator=torch.Generator().manual_seed(0))
    valid = torch.ones(rows, length, dtype=torch.bool)
    valid[1, 7:] = False
    return tokens, torch.linspace(0.2, 0.9, rows, dtype=torch.float64), valid, torch.tensor([0, 3, 12, 15, 16, 30, 35])


def widths_of(layer: nn.Module) -> list[int]:
    """To how many positions a layer is applied, pass by pass."""
    found: list[int] = []
    layer.register_forward_pre_hook(lambda module, arguments: found.append(arguments[0].shape[:-1].numel()))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", STRETCHES)
def test_logits_are_those_of_the_plain_last_layer(architecture: str, dtype: torch.dtype) -> None:
    model: Any = tiny_model(architecture)
    model.to(dtype)
    denoiser, (tokens, t, valid, positions) = MaskedLMDenoiser(model), batch()
    head = denoiser.head
    assert names(model, head.stretch) == STRETCHES[architecture]
    found = denoiser(tokens, t, valid, positions)
    head.stretch = None
    expected = denoiser(tokens, t, valid, positions)
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=scale * (1e-5 if dtype == torch.float32 else 3e-2))


@pytest.mark.parametrize("name", MIXERS)
def test_networks_that_mix_padding_have_such_a_stretch_too(name: str) -> None:
    model = mixer(name)
    denoiser, (tokens, t, valid, positions) = MaskedLMDenoiser(model), batch()
    assert denoiser.head.stretch is not None
    found = denoiser(tokens, t, valid, positions)
    denoiser.head.stretch = None
    torch.testing.assert_close(found, denoiser(tokens, t, valid, positions), rtol=1e-4, atol=1e-4)


def test_a_row_is_told_its_own_time_in_the_last_layer() -> None:
    model: Any = tiny_model("token-diffusion", time_conditioning="t")
    closed, (tokens, t, valid, positions) = Head(model).stretch, batch()
    # Before training no gate is open, and what attention does is not seen in the layer's output.
    assert names(model, closed) == STRETCHES["token-diffusion"]
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    denoiser = MaskedLMDenoiser(model)
    found = denoiser(tokens, t, valid, positions)
    assert not torch.allclose(found, denoiser(tokens, t.flip(0), valid, positions), atol=0.1)
    denoiser.head.stretch = None
    torch.testing.assert_close(found, denoiser(tokens, t, valid, positions), rtol=1e-4, atol=1e-4)


def test_the_last_layer_is_run_at_few_positions_alone_and_at_many_everywhere() -> None:
    model: Any = tiny_model("bert")
    denoiser, (tokens, t, valid, positions) = MaskedLMDenoiser(model), batch()
    first, last = (widths_of(layer.output) for layer in model.bert.encoder.layer)
    denoiser(tokens, t, valid, positions)
    assert (first, last) == ([36], [len(positions)])
    most = int(MOST * 36)
    denoiser(tokens, t, valid, torch.arange(most))
    denoiser(tokens, t, valid, torch.arange(most + 1))
    assert last[1:] == [most, 36]


def test_gradients_are_those_of_the_plain_pass() -> None:
    model: Any = tiny_model("bert")
    tokens, _, valid, positions = batch()
    last, head = widths_of(model.bert.encoder.layer[-1].output), Head(model)
    assert head.stretch is not None
    last.clear()
    plain = model(input_ids=tokens, attention_mask=valid.long()).logits.flatten(0, 1)[positions]
    expected = torch.autograd.grad(plain.logsumexp(-1).sum(), list(model.bert.parameters()))
    with head.at(positions):
        gathered = model(input_ids=tokens, attention_mask=valid.long()).logits.flatten(0, -2)
    found = torch.autograd.grad(gathered.logsumexp(-1).sum(), list(model.bert.parameters()))
    assert last == [36, 36], "with gradients the whole layer is run"
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


class Rolled(nn.Module):
    """A layer's end, of which each position gets a part of what the one before it has."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        output: Tensor = self.inner(hidden, residual)
        return output + output.roll(1, dims=1)


def test_a_layer_in_which_positions_meet_at_its_end_is_left_plain() -> None:
    model: Any = tiny_model("bert")
    model.bert.encoder.layer[-1].output = Rolled(model.bert.encoder.layer[-1].output)
    head, (tokens, _, valid, positions) = Head(model), batch()
    assert head.gathers and head.stretch is None
    with torch.inference_mode():
        plain = model(input_ids=tokens, attention_mask=valid.long()).logits.flatten(0, 1)[positions]
        with head.at(positions):
            found = model(input_ids=tokens, attention_mask=valid.long()).logits.flatten(0, -2)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["bidirectional-gpt2", "bidirectional-llama"])
def test_a_body_that_shifts_its_hidden_states_needs_others_than_are_asked_for(architecture: str) -> None:
    head = Head(tiny_model(architecture, shift_logits=True))
    assert head.gathers and head.stretch is None


def test_layers_that_share_their_weights_are_left_plain() -> None:
    head = Head(tiny_model("albert"))
    assert head.gathers and head.stretch is None


def test_a_network_with_no_last_layer_to_be_found_is_left_plain() -> None:
    model: Any = tiny_model("bert", num_hidden_layers=0)
    head = Head(model)
    assert head.gathers and head.stretch is None
