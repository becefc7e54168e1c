"""The validation bound: NELBO a token of text the model was not trained on, with its standard error."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from token_diffusion.denoiser import time_arguments
from token_diffusion.scheduler import TokenDiffusionScheduler

from .bound import ValidationBound, summarise
from .spelling import Spelling


def loss_sums(
    model: nn.Module, scheduler: TokenDiffusionScheduler, batch: dict[str, Tensor], weighting: str = "elbo"
) -> tuple[Tensor, Tensor]:
    """Loss and NELBO of each sequence at its t, in nats summed over the tokens that count: [B] each, differentiable.

    `batch` is as `noising.Collate` makes it; `weighting` is that of `TokenDiffusionScheduler.loss`.
    """
    time = time_arguments(model, batch["timesteps"])
    logits = model(input_ids=batch["noisy"], attention_mask=batch["attention_mask"], **time).logits
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
    spelling: Spelling | None = None,
    weights: str = "as trained",
    progress: bool = False,
) -> ValidationBound:
    """The bound over `loader`, whose draws are numbered as `noising.ValidationBatches` does. Every process gets it.

    `spelling` tells the characters of the sequences, `weights` (words for the report) what the model's weights are;
    `progress` shows a bar on stderr.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(num_sequences * num_times, dtype=torch.float64)
    counts = torch.zeros_like(sums)
    for batch in tqdm(loader, desc="validate", disable=not progress, leave=False):
        _, nelbo = loss_sums(model, scheduler, batch)
        row = (batch["position"], nelbo.double(), batch["noisable"].sum(-1))
        position, nelbo, count = (part.cpu() for part in accelerator.gather(row))
        # By position, as the last batch of a process may repeat draws to be full.
        sums[position], counts[position] = nelbo, count.double()
    model.train(was_training)
    sums, counts = sums.view(-1, num_times).mean(-1), counts.view(-1, num_times)[:, 0]
    return summarise(sums, counts, num_times, spelling, weights)
