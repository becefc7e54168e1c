"""Decoders that see everything: each position all others, whichever way attention is computed, whatever stands beside a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM

import token_diffusion  # noqa: F401 (it registers them)
from token_diffusion.networks.behaviour import check_masks

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
}
KINDS: dict[str, dict[str, Any]] = {
    "bidirectional-llama": {"num_key_value_heads": 2},
    "bidirectional-qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "bidirectional-qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "bidirectional-gpt2": {},
}
LENGTH = 7


def made(kind: str, attention: str = "sdpa", **options: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES | KINDS[kind] | options)
    config._attn_implementation = attention
    return AutoModelForMaskedLM.from_config(config).eval()


def influence(model: Any, mask: Tensor | None) -> Tensor:
    """How much the hidden state of each position [L] changes if the embedding of each position [L] does: bool [L, L]."""
    tokens = torch.arange(1, LENGTH + 1).unsqueeze(0)
    moved = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    with torch.no_grad():
        before = model(input_ids=tokens, attention_mask=mask).logits[0]
        for column in range(LENGTH):
            other = tokens.clone()
            other[0, column] = 30
            after = model(input_ids=other, attention_mask=mask).logits[0]
            moved[:, column] = (after - before).abs().amax(-1) > 1e-5
    return moved


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_position_sees_every_other(kind: str, attention: str) -> None:
    model = made(kind, attention)
    everything = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    assert torch.equal(influence(model, None), everything)
    assert torch.equal(influence(model, torch.ones(1, LENGTH, dtype=torch.int64)), everything)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_none_sees_padding_on_either_side(kind: str, attention: str) -> None:
    model = made(kind, attention)
    for padding in ([5, 6], [2, 6]):
        mask = torch.ones(1, LENGTH, dtype=torch.int64)
        mask[0, padding] = 0
        seen = influence(model, mask)
        others = [position for position in range(LENGTH) if position not in padding]
        assert seen[others][:, others].all() and not seen[others][:, padding].any()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_same_alone_and_beside_longer_ones(kind: str) -> None:
    model, tokens = made(kind, shift_logits=True), torch.arange(24).view(2, 12)
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    with torch.no_grad():
        both = model(input_ids=tokens, attention_mask=mask).logits
        alone = model(input_ids=tokens[1:, :5]).logits
    torch.testing.assert_close(both[1, :5], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_shifted_logits_are_those_of_the_position_before(kind: str) -> None:
    plain, shifted, tokens = made(kind), made(kind, shift_logits=True), torch.arange(24).view(2, 12)
    with torch.no_grad():
        before, after = plain(input_ids=tokens).logits, shifted(input_ids=tokens).logits
    torch.testing.assert_close(after[:, 1:], before[:, :-1])
    torch.testing.assert_close(after[:, 0], before[:, 0])


def test_a_row_of_masks_may_be_the_same_everywhere_as_a_row_of_any_token_is_up_to_rounding() -> None:
    """Rotation tells positions apart, but not what they hold: where all hold the same, the answer is the same."""
    model, mask = made("bidirectional-llama").bfloat16(), 7
    with torch.no_grad():
        model.get_input_embeddings().weight[mask] = 0
        assert bool((model(input_ids=torch.full((1, 9), mask)).logits == 0).all())

    def rounded(head: Any, arguments: Any, logits: Tensor) -> Tensor:
        """A bit of bfloat16's more at every other position, which long sums do."""
        return logits * (1 + 2**-8 * (torch.arange(logits.shape[1]) % 2)).unsqueeze(-1)

    model.lm_head.register_forward_hook(rounded)
    check_masks(model, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_and_read_as_it_is(kind: str, tmp_path: Path) -> None:
    model, tokens = made(kind, shift_logits=True), torch.arange(24).view(2, 12)
    model.save_pretrained(tmp_path)
    again: Any = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert type(again) is type(model) and again.config.shift_logits and not again.config.is_causal
    with torch.no_grad():
        assert torch.equal(again(input_ids=tokens).logits, model(input_ids=tokens).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_through_gradient_checkpoints_as_without(kind: str) -> None:
    tokens = torch.arange(24).view(2, 12)
    gradients = []
    for checkpointing in (False, True):
        model = made(kind, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0) if "gpt2" in kind else made(kind)
        model.train()
        if checkpointing:
            (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
        model(input_ids=tokens).logits.square().mean().backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)
