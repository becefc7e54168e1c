"""The validation bound: NELBO a token of text the model was not trained on, with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from token_diffusion.scheduler import TokenDiffusionScheduler


@dataclass(frozen=True)
class ValidationBound:
    """An upper bound on the negative log-likelihood, estimated at `num_times` stratified t a sequence.

    `nelbo` and `standard_error` (over sequences) are nats a token; `num_tokens` are those that count, `num_chars` the
    characters that they spell, if known.
    """

    nelbo: float
    standard_error: float
    num_sequences: int
    num_tokens: int
    num_times: int
    num_chars: int | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nelbo, 700.0))

    @property
    def bits_per_token(self) -> float:
        return self.nelbo / math.log(2)

    @property
    def bits_per_char(self) -> float | None:
        return None if self.num_chars is None else self.bits_per_token * self.num_tokens / self.num_chars

    def __str__(self) -> str:
        text = (
            f"nelbo {self.nelbo:.4f} ± {self.standard_error:.4f} nats/token, ppl {self.perplexity:.2f}, "
            f"{self.bits_per_token:.4f} bits/token"
        )
        if self.bits_per_char is not None:
            text += f", {self.bits_per_char:.4f} bits/char"
        return f"{text} ({self.num_tokens} tokens, {self.num_sequences} sequences, {self.num_times} t each)"


def loss_sums(
    model: nn.Module, scheduler: TokenDiffusionScheduler, batch: dict[str, Tensor], weighting: str = "elbo"
) -> tuple[Tensor, Tensor]:
    """Loss and NELBO of each sequence at its t, in nats summed over the tokens that count: [B] each, differentiable.

    `batch` is as `noising.Collate` makes it; `weighting` is that of `TokenDiffusionScheduler.loss`.
    """
    logits = model(input_ids=batch["noisy"], attention_mask=batch["attention_mask"]).logits
    loss, nelbo = scheduler.loss(logits, batch["clean"], batch["noisy"], batch["timesteps"], weighting)
    noisable = batch["noisable"]
    return torch.where(noisable, loss, 0.0).sum(-1), torch.where(noisable, nelbo, 0.0).sum(-1)


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    model: nn.Module,
    scheduler: TokenDiffusionScheduler,
    loader: DataLoader,
    *,
    num_sequences: int,
    num_times: int,
    num_chars: int | None = None,
) -> ValidationBound:
    """The bound over `loader`, whose draws are numbered as `noising.ValidationBatches` does. Every process gets it."""
    was_training = model.training
    model.eval()
    sums = torch.zeros(num_sequences * num_times, dtype=torch.float64)
    counts = torch.zeros_like(sums)
    for batch in loader:
        _, nelbo = loss_sums(model, scheduler, batch)
        row = (batch["position"], nelbo.double(), batch["noisable"].sum(-1))
        position, nelbo, count = (part.cpu() for part in accelerator.gather(row))
        # By position, as the last batch of a process may repeat draws to be full.
        sums[position], counts[position] = nelbo, count.double()
    model.train(was_training)
    return summarise(sums.view(-1, num_times).mean(-1), counts.view(-1, num_times)[:, 0], num_times, num_chars)


def summarise(sums: Tensor, counts: Tensor, num_times: int, num_chars: int | None = None) -> ValidationBound:
    """The ratio Σ sums / Σ counts of sequences (float64 [n] each), with its standard error over sequences."""
    n, total = len(sums), counts.sum()
    nelbo = sums.sum() / total
    residual = (sums - nelbo * counts).square().sum()
    standard_error = math.sqrt(n / (n - 1) * residual.item()) / total.item() if n > 1 else math.nan
    return ValidationBound(nelbo.item(), standard_error, n, int(total), num_times, num_chars)
