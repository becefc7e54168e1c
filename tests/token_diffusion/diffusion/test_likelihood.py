from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.diffusion import likelihood
from token_diffusion.diffusion.likelihood import absorbing_cross_entropy, excess, flat_noise_divergence


def dense(logits: Tensor, x: Tensor, z: Tensor, alpha: Tensor, each: Tensor, mask: int) -> Tensor:
    """The textbook: V-sized q and p, written out."""
    logits = logits.index_fill(-1, torch.tensor([mask]), -torch.inf)
    q = alpha.unsqueeze(-1) * torch.nn.functional.one_hot(x, logits.shape[-1]) + each.unsqueeze(-1)
    p = alpha.unsqueeze(-1) * logits.softmax(-1) + each.unsqueeze(-1)
    ratio = (q / p).gather(-1, z.unsqueeze(-1)).squeeze(-1)
    real = torch.arange(logits.shape[-1]) != mask  # q and p agree at the mask, which adds nothing
    return (q * (q / p).log())[..., real].sum(-1) + torch.where(z == mask, 0.0, ratio - 1 - ratio.log())


@pytest.mark.parametrize("mask", [0, 3, 10])
@pytest.mark.parametrize("alpha", [0.999, 0.5, 1e-2])
def test_divergence_is_the_dense_one(mask: int, alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "CHUNK_ELEMENTS", 33)  # several chunks, the last one short
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 11, dtype=torch.float64, generator=generator, requires_grad=True)
    x, z = torch.randint(4, 10, (2, 2, 5), generator=generator)
    z[0, 0] = mask
    z[0, 1] = x[0, 1]
    a = torch.full((2, 5), alpha, dtype=torch.float64)
    each = (1 - a) / 10
    ours, theirs = flat_noise_divergence(logits, x, z, a, each, mask), dense(logits, x, z, a, each, mask)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
    gradients = [torch.autograd.grad(value.sum(), logits)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-9)


def test_divergence_keeps_its_digits_where_alpha_vanishes() -> None:
    """For alpha -> 0 it is alpha^2 / (2 each) * (|theta - x|^2 + (1[z=x] - theta_z)^2); by subtraction no digit is left."""
    logits = torch.tensor([[[1.0, 2.0, 0.5, -1.0]]])
    x, z, alpha, each = (
        torch.tensor([[1]]),
        torch.tensor([[2]]),
        torch.tensor([[1e-8]]).double(),
        torch.tensor([[1 / 3]]),
    )
    theta = torch.cat([torch.softmax(logits[0, 0, :3].double(), 0), torch.zeros(1)])
    target = torch.tensor([0.0, 1.0, 0.0, 0.0]).double()
    square = ((theta - target) ** 2).sum() + theta[2] ** 2
    value = flat_noise_divergence(logits, x, z, alpha, each.double(), 3).item()
    assert value == pytest.approx((1e-16 / (2 / 3) * square).item(), rel=1e-5)


def test_cross_entropy_ignores_the_mask_and_leaves_the_logits_alone() -> None:
    logits = torch.randn(2, 3, 6)
    logits[..., 4] = 50.0
    kept = logits.clone()
    x = torch.tensor([[0, 1, 2], [3, 5, 0]])
    reference = logits.clone()
    reference[..., 4] = -torch.inf
    expected = torch.nn.functional.cross_entropy(reference.flatten(0, 1), x.flatten(), reduction="none").view(2, 3)
    torch.testing.assert_close(absorbing_cross_entropy(logits, x, 4), expected)
    assert logits.equal(kept)


def plain_nelbo(scheduler: TokenDiffusionScheduler, logits: Tensor, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """masked_fill, softmax and logarithms in float64, V-sized; the weights are the process's own."""
    process, mask = scheduler.process, scheduler.config.mask_token_id
    logits, t = logits.double(), t.double().unsqueeze(-1).expand(x.shape)
    if process.name == "absorbing":
        log_theta = logits.masked_fill(torch.arange(logits.shape[-1]) == mask, -torch.inf).log_softmax(-1)
        missed = -log_theta.gather(-1, x.unsqueeze(-1)).squeeze(-1)
        divergence = torch.where(z == mask, missed, torch.zeros_like(missed))
    else:
        masses = process.masses(t)
        divergence = dense(logits, x, z, masses.alpha, masses.uniform / process.states.count, mask)
    return process.weights(x, z, t)["elbo"] * divergence + process.prior_divergence


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
@pytest.mark.parametrize(
    ("vocab_size", "mask", "dead"),
    [
        pytest.param(12, 10, [11], id="all after the mask"),
        pytest.param(12, 1, [0], id="all before the mask"),
        pytest.param(64, 12, range(13, 64), id="padding after the mask"),
        pytest.param(64, 51, range(51), id="all before it, many"),
        pytest.param(12, 5, [3], id="one of many"),
        pytest.param(12, 5, [3, 5, 7], id="the mask too"),
        pytest.param(12, 0, [3], id="the mask first"),
        pytest.param(12, 11, [3, 10], id="the mask last"),
        pytest.param(12, 5, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10], id="all but one"),
    ],
)
def test_the_gradient_is_right_where_logits_are_minus_infinity(
    process: str, vocab_size: int, mask: int, dead: Sequence[int]
) -> None:
    """In float64 to the last digits, in float32 to its own; uniform noise may also land on what has no probability."""
    scheduler = TokenDiffusionScheduler(vocab_size, mask, forward_process=process)
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(2, 6, vocab_size, dtype=torch.float64, generator=generator)
    exact[..., list(dead)] = -torch.inf
    alive = torch.tensor([token for token in range(vocab_size) if token != mask and token not in dead])
    x, t = alive[torch.randint(len(alive), (2, 6), generator=generator)], torch.tensor([0.3, 0.8])
    z = scheduler.add_noise(x, timesteps=t, generator=generator)
    if process != "absorbing":
        z[0, 0] = x[0, 1] = next(token for token in dead if token != mask)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        logits = exact.to(dtype).requires_grad_()
        values = scheduler.nelbo(logits, x, z, t), plain_nelbo(scheduler, logits, x, z, t)
        ours, theirs = (torch.autograd.grad(value.sum(), logits)[0] for value in values)
        torch.testing.assert_close(values[0], values[1].to(dtype), atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_a_loss_that_is_infinite_says_so_and_rows_that_are_not_read_do_no_harm() -> None:
    scheduler = TokenDiffusionScheduler(6, 4)
    logits = torch.zeros(1, 3, 6)
    logits[0, 0, 1] = logits[0, 1, 2] = logits[0, 2] = -torch.inf
    logits.requires_grad_()
    x, t = torch.tensor([[1, 2, 3]]), torch.tensor([0.5])
    loss, _ = scheduler.loss(logits, x, torch.tensor([[4, 2, 3]]), t)  # an impossible token, then two that show
    assert loss.tolist() == [[torch.inf, 0.0, 0.0]]
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient[0, 0], 2 * torch.tensor([0.25, -1, 0.25, 0.25, 0, 0.25]))
    assert not gradient[0, 1:].any()


class Allocations(TorchDispatchMode):
    """Bytes of each new tensor of any operation, forward or backward; views and in-place results are not new."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        result = func(*args, **(kwargs or {}))
        storages = [leaf.untyped_storage() for leaf in tree_leaves(result) if torch.is_tensor(leaf)]
        self.sizes += [storage.nbytes() for storage in storages if storage.data_ptr() not in known]
        return result


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_the_one_tensor_as_large_as_the_logits(
    process: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else is at most a chunk in float32, however large the logits are."""
    monkeypatch.setattr(likelihood, "CHUNK_ELEMENTS", 4000)
    scheduler = TokenDiffusionScheduler(1000, 4, forward_process=process)
    logits = torch.randn(4, 16, 1000).to(dtype).requires_grad_()
    x, t = torch.randint(5, 1000, (4, 16)), torch.tensor([0.1, 0.4, 0.7, 1.0])
    z = scheduler.add_noise(x, timesteps=t)
    with Allocations() as allocations:
        torch.autograd.grad(scheduler.nelbo(logits, x, z, t).sum(), logits)
    assert [size for size in allocations.sizes if size > 4 * 4000] == [logits.nbytes]


def test_excess_is_smooth_across_its_branches() -> None:
    v = torch.tensor([-0.9, -0.0301, -0.0299, -1e-9, 0.0, 1e-9, 0.0299, 0.0301, 5.0, 1e20], dtype=torch.float64)
    exact = v - torch.log1p(v)
    torch.testing.assert_close(excess(v), exact, atol=1e-15, rtol=1e-9)
    w = v.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(excess(w).sum(), w)
    torch.testing.assert_close(gradient, v / (1 + v), atol=1e-9, rtol=1e-6)
