"""Block-causal attention: a position sees its own block and those before it, counted from position 0, and no padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_model
from token_diffusion.networks.behaviour import check_masks
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.networks.transformer import TokenDiffusionForMaskedLM

LENGTH, SIZE = 11, 4


def network(block_size: int | None = SIZE) -> TokenDiffusionForMaskedLM:
    model = tiny_model("token-diffusion", causal_block_size=block_size)
    assert isinstance(model, TokenDiffusionForMaskedLM)
    return model


def tokens_of(rows: int, length: int = LENGTH) -> Tensor:
    return torch.randint(50, (rows, length), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def logits(model: TokenDiffusionForMaskedLM, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    return model(tokens, mask).logits


@pytest.mark.parametrize("changed", range(LENGTH))
def test_a_token_is_seen_by_its_block_and_those_behind_it(changed: int) -> None:
    model, tokens = network(), tokens_of(1)
    other = tokens.clone()
    other[0, changed] = (other[0, changed] + 1) % 50
    moved = (logits(model, tokens) - logits(model, other))[0].abs().amax(-1) > 1e-4
    assert moved.tolist() == [position // SIZE >= changed // SIZE for position in range(LENGTH)]


@pytest.mark.parametrize("length", [1, 4, 6, 8])
def test_a_beginning_is_the_same_without_the_rest_where_a_block_ends(length: int) -> None:
    model, tokens = network(), tokens_of(2)
    same = torch.allclose(logits(model, tokens[:, :length]), logits(model, tokens)[:, :length], atol=1e-5)
    assert same == (length % SIZE == 0)


def test_padding_is_seen_by_nobody() -> None:
    """Wherever it begins: inside a block, or with one."""
    model, tokens = network(), tokens_of(3)
    lengths = [11, 6, 4]
    mask = (torch.arange(LENGTH) < torch.tensor(lengths).unsqueeze(1)).long()
    together = logits(model, tokens, mask)
    assert bool(together.isfinite().all())
    for row, length in enumerate(lengths):
        alone = logits(model, tokens[row : row + 1, :length])[0]
        assert torch.allclose(together[row, :length], alone, atol=1e-5)


def test_one_block_is_all_of_them() -> None:
    tokens = tokens_of(2)
    assert torch.allclose(logits(network(LENGTH), tokens), logits(network(None), tokens), atol=1e-5)


def test_it_is_asked_as_any_network_is() -> None:
    """Rows share passes, and the head runs at asked positions alone."""
    model = network()
    check_masks(model, 4)
    denoiser = MaskedLMDenoiser(model)
    assert denoiser.batching == "shared" and denoiser.gathers
    tokens, positions = tokens_of(2), torch.tensor([3, 12, 20])
    found = denoiser(tokens, torch.ones(2), torch.ones_like(tokens, dtype=torch.bool), positions)
    assert torch.allclose(found, logits(model, tokens).flatten(0, 1)[positions], atol=1e-5)


def test_noisy_blocks_behind_clean_ones_in_one_pass() -> None:
    """As block after block, and with padding that begins inside one."""
    model, noisy = network(), tokens_of(3)
    clean = (noisy + 7) % 50
    mask = (torch.arange(LENGTH) < torch.tensor([[11], [6], [4]])).long()
    with torch.inference_mode():
        together = model(noisy, mask, clean_ids=clean).logits
        assert together.shape == (3, LENGTH, 50) and bool(together.isfinite().all())
        for start in range(0, LENGTH, SIZE):
            own = slice(start, start + SIZE)
            apart = model(torch.cat([clean[:, :start], noisy[:, start:]], 1), mask).logits
            valid = mask[:, own].bool()
            assert torch.allclose(together[:, own][valid], apart[:, own][valid], atol=1e-5)
        whole = network(None)
        assert whole(noisy, clean_ids=clean).logits.equal(whole(noisy).logits), "where all see all it says nothing"
        one = network(LENGTH)
        assert one(noisy, clean_ids=clean).logits.equal(one(noisy).logits)
