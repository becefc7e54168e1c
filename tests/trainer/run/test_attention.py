"""Attention by products is torch's own up to rounding, forwards and backwards, and only where it was asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.run import attention as module
from trainer.run.attention import ProductAttention, attention

PADDED = torch.ones(2, 1, 5, 5, dtype=torch.bool).index_fill(-1, torch.tensor([4]), False)
BIAS = torch.linspace(-1, 1, 50).view(2, 1, 5, 5)


def results(function: Any, **options: Any) -> list[Tensor]:
    """The output and the gradients of query, key and value, under bfloat16 autocast."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 5, 8, generator=generator).requires_grad_() for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        output = function(*inputs, **options)
    output.backward(torch.randn(output.shape, generator=generator).to(output.dtype))
    return [output, *(tensor.grad for tensor in inputs if tensor.grad is not None)]


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 0.1}, {"attn_mask": PADDED}, {"attn_mask": BIAS}, {"attn_mask": PADDED, "scale": 0.5}],
    ids=["plain", "scale", "padding", "bias", "both"],
)
def test_it_is_attention(options: dict[str, Any]) -> None:
    def exact(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(query, key, value, **options)

    found, expected = results(attention, **options), results(exact, **options)
    assert len(found) == len(expected) == 4 and found[0].dtype == torch.bfloat16
    for here, there in zip(found, expected, strict=True):
        torch.testing.assert_close(here.float(), there, rtol=0.03, atol=0.03)


def test_padding_has_no_part() -> None:
    """Not even by rounding: the gradient of a masked key and value is zero."""
    _, _, key, value = results(attention, attn_mask=PADDED)
    assert not key[:, :, 4].any() and not value[:, :, 4].any() and key[:, :, :4].any()


def test_dropout_drops() -> None:
    torch.manual_seed(0)
    kept = results(attention)[0]
    dropped = [results(attention, dropout_p=0.5)[0].float() for _ in range(400)]
    assert not torch.equal(dropped[0], dropped[1])
    torch.testing.assert_close(torch.stack(dropped).mean(0), kept.float(), rtol=0.2, atol=0.2)


def test_only_where_it_was_asked_for_and_knows_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    softmaxes: list[int] = []
    softmax = F.softmax

    def counted(scores: Tensor, dim: int) -> Tensor:
        softmaxes.append(1)
        return softmax(scores, dim)

    monkeypatch.setattr(module.F, "softmax", counted)
    query = torch.randn(1, 2, 4, 8)
    with ProductAttention():
        F.scaled_dot_product_attention(query, query, query)
        assert not softmaxes
        with torch.autocast("cpu", torch.bfloat16):
            F.scaled_dot_product_attention(query, query, query, is_causal=True)
            assert not softmaxes
            F.scaled_dot_product_attention(query, query, query)
            assert len(softmaxes) == 1
            monkeypatch.setattr(module, "MOST_SCORES", 31)
            F.scaled_dot_product_attention(query, query, query)
    with torch.autocast("cpu", torch.bfloat16):
        F.scaled_dot_product_attention(query, query, query)
    assert len(softmaxes) == 1
