"""Small laws over sequences that can be enumerated, with the exact denoiser of each: known answers for everything."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from scipy.stats import chi2
from torch import Tensor

from token_diffusion import TokenDiffusionScheduler


@dataclass(frozen=True)
class Law:
    """A probability for every sequence of non-mask tokens: sequences int64 [S, L], probability float64 [S]."""

    vocab_size: int
    mask_token_id: int
    sequences: Tensor
    probability: Tensor

    @property
    def entropy(self) -> float:
        """Nats of a sequence."""
        return -(self.probability * self.probability.log()).sum().item()

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 [count, L]."""
        return self.sequences[torch.multinomial(self.probability, count, replacement=True, generator=generator)]

    def denoiser(self, scheduler: TokenDiffusionScheduler) -> Denoiser:
        return Denoiser(self, scheduler)

    def given(self, tokens: list[int]) -> Tensor:
        """The conditional law float64 [S], given the tokens that are not negative."""
        fits = torch.ones(len(self.sequences), dtype=torch.bool)
        for position, token in enumerate(tokens):
            if token >= 0:
                fits &= self.sequences[:, position] == token
        conditional = torch.where(fits, self.probability, 0.0)
        return conditional / conditional.sum()


@dataclass(frozen=True)
class Denoiser:
    """log P(x_i | z without z_i): the optimum of the NELBO. For a masked z_i that is the plain posterior."""

    law: Law
    scheduler: TokenDiffusionScheduler

    def __call__(self, tokens: Tensor, t: Tensor) -> Tensor:
        """tokens [B, L], t [B] -> float64 [B, L, V]."""
        law, process = self.law, self.scheduler.process
        masses = process.masses(t.double().unsqueeze(1))
        landed = process.states.landing(tokens, masses)
        same = law.sequences.T.unsqueeze(0) == tokens.unsqueeze(-1)  # [B, L, S]
        alpha = masses.alpha.clamp(
            min=1e-12
        )  # a prompt is clean even at t = 1, where noise would have left nothing clean
        likelihood = alpha.unsqueeze(-1) * same.double() + landed.unsqueeze(-1)
        logits = torch.empty(*tokens.shape, law.vocab_size, dtype=torch.float64)
        for i in range(tokens.shape[1]):
            others = [j for j in range(tokens.shape[1]) if j != i]
            weight = likelihood[:, others].prod(1) * law.probability
            posterior = torch.zeros(len(tokens), law.vocab_size, dtype=torch.float64)
            posterior.index_add_(1, law.sequences[:, i], weight)
            logits[:, i] = (posterior / posterior.sum(1, keepdim=True)).clamp(min=1e-300).log()
        return logits


def make_law(
    vocab_size: int = 4, length: int = 3, mask_token_id: int = 3, seed: int = 0, sharpness: float = 1.2
) -> Law:
    """Random, dependent across positions, the same for the same arguments."""
    ids = [token for token in range(vocab_size) if token != mask_token_id]
    sequences = torch.tensor(list(itertools.product(ids, repeat=length)))
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(sequences), dtype=torch.float64, generator=generator) * sharpness
    return Law(vocab_size, mask_token_id, sequences, weights.softmax(0))


def counts(law: Law, samples: Tensor) -> Tensor:
    """How often each of the law's sequences occurs in samples [N, L], float64 [S]; every sample must be one of them."""
    matches = (samples.unsqueeze(1) == law.sequences.unsqueeze(0)).all(-1)
    assert bool(matches.any(1).all()), "a sample is no sequence of the law"
    return matches.double().sum(0)


def chi_square_p(observed: Tensor, probability: Tensor) -> float:
    """p-value of observed counts [S] under probability [S]; cells expected below 5 are pooled."""
    expected = probability * observed.sum()
    small = expected < 5
    if small.any():
        observed = torch.cat([observed[~small], observed[small].sum().unsqueeze(0)])
        expected = torch.cat([expected[~small], expected[small].sum().unsqueeze(0)])
    keep = expected > 0
    assert bool((observed[~keep] == 0).all()), "an impossible sequence was drawn"
    statistic = ((observed[keep] - expected[keep]) ** 2 / expected[keep]).sum().item()
    return float(chi2.sf(statistic, int(keep.sum()) - 1))


@dataclass(frozen=True)
class BlockCausalDenoiser:
    """The same for each block, given the blocks before it as they are, which are clean; blind to those behind it."""

    law: Law
    scheduler: TokenDiffusionScheduler
    block_size: int

    def __call__(self, tokens: Tensor, t: Tensor) -> Tensor:
        """tokens [B, L], t [B] -> float64 [B, L, V]."""
        law, process, length = self.law, self.scheduler.process, tokens.shape[1]
        masses = process.masses(t.double().unsqueeze(1))
        same = law.sequences.T.unsqueeze(0) == tokens.unsqueeze(-1)  # [B, L, S]
        likelihood = masses.alpha.clamp(min=1e-12).unsqueeze(-1) * same.double()
        likelihood = likelihood + process.states.landing(tokens, masses).unsqueeze(-1)
        logits = torch.empty(*tokens.shape, law.vocab_size, dtype=torch.float64)
        for i in range(length):
            start = i - i % self.block_size
            others = [j for j in range(start, min(start + self.block_size, length)) if j != i]
            weight = same[:, :start].all(1).double() * likelihood[:, others].prod(1) * law.probability
            posterior = torch.zeros(len(tokens), law.vocab_size, dtype=torch.float64)
            posterior.index_add_(1, law.sequences[:, i], weight)
            logits[:, i] = (posterior / posterior.sum(1, keepdim=True).clamp(min=1e-300)).clamp(min=1e-300).log()
        return logits


class Laws:
    """The exact denoiser of one law a label, and of another one without."""

    num_classes = 2

    def __init__(self, scheduler: TokenDiffusionScheduler) -> None:
        mask = scheduler.config.mask_token_id
        self.laws = [make_law(4, 3, mask, seed=seed) for seed in (0, 1, 2)]
        self.scheduler = scheduler

    def of(self, label: int | None) -> Law:
        return self.laws[-1 if label is None else label]

    def __call__(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        all_of_them = torch.stack([law.denoiser(self.scheduler)(tokens, t) for law in self.laws])
        told = torch.full((len(tokens),), -1) if labels is None else labels
        return all_of_them[told, torch.arange(len(tokens))]
