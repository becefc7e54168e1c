"""The validation bound: NELBO a token of text the model was not trained on, with its standard error."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import gather
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from token_diffusion.diffusion.scheduler import TokenDiffusionScheduler
from token_diffusion.networks.groups import SHARED, Grouping, row_lengths
from token_diffusion.networks.masked_lm import Head, forward_arguments

from ..data.spelling import Spelling
from .bound import ValidationBound, summarise


def loss_sums(
    model: nn.Module,
    scheduler: TokenDiffusionScheduler,
    batch: dict[str, Tensor],
    weighting: str = "elbo",
    head: Head | None = None,
    grouping: Grouping = SHARED,
) -> tuple[Tensor, Tensor]:
    """Loss and NELBO of each sequence at its t, in nats summed over the tokens that count: [B] each, differentiable.

    `batch` is as `noising.Collate` makes it; `weighting` is that of `TokenDiffusionScheduler.loss`. With the model's `head`
    logits are computed only where the loss reads them: at masks for absorbing, never at padding or special tokens. What the
    model's `grouping` does not let share a forward pass gets one of its own, so that no sequence sees its padding.
    """
    if grouping == SHARED:
        return _sums(model, scheduler, batch, weighting, head)
    lengths = row_lengths(batch["attention_mask"])
    passes = grouping.groups(lengths)

    def sums(rows: list[int]) -> tuple[Tensor, Tensor]:
        part = {name: each[rows] for name, each in batch.items() if each.dim() == 1}
        part |= {name: grouping.cut(each, rows, lengths[rows[0]]) for name, each in batch.items() if each.dim() == 2}
        return _sums(model, scheduler, part, weighting, head)

    # Wrapped models talk to those of the other processes in each pass: all make as many, whatever their lengths.
    idle = _most(len(passes), batch["clean"].device) - len(passes)
    loss, nelbo = (torch.cat(part) for part in zip(*map(sums, passes), strict=True))
    for _ in range(idle):
        loss = loss + 0 * sums(passes[0])[0].sum()
    order = torch.tensor([row for rows in passes for row in rows], device=loss.device).argsort()
    return loss[order], nelbo[order]


def _most(count: int, device: torch.device) -> int:
    """The largest count of all processes."""
    return int(gather(torch.tensor([count], device=device)).max())


def _sums(
    model: nn.Module,
    scheduler: TokenDiffusionScheduler,
    batch: dict[str, Tensor],
    weighting: str,
    head: Head | None,
) -> tuple[Tensor, Tensor]:
    """`loss_sums` in one forward pass."""
    clean, noisy, t, noisable = (batch[name] for name in ("clean", "noisy", "timesteps", "noisable"))
    inputs = forward_arguments(model, noisy, t, batch["attention_mask"], batch.get("label"), clean)
    if head is None or not head.gathers:
        losses = scheduler.loss(model(**inputs).logits, clean, noisy, t, weighting)
        loss, nelbo = (torch.where(noisable, each, 0.0).sum(-1) for each in losses)
        return loss, nelbo
    read = noisable & scheduler.process.reads(noisy)
    with head.at(read.flatten().nonzero().squeeze(-1)):
        logits = model(**inputs).logits.flatten(0, -2).unsqueeze(0)  # [1, n, V]
    clean, noisy, t = (each[read].unsqueeze(0) for each in (clean, noisy, t.unsqueeze(-1).expand(read.shape)))
    losses = scheduler.loss(logits, clean, noisy, t, weighting)
    loss, nelbo = (torch.zeros_like(read, dtype=each.dtype).masked_scatter(read, each).sum(-1) for each in losses)
    return loss, nelbo


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    model: nn.Module,
    scheduler: TokenDiffusionScheduler,
    loader: DataLoader,
    *,
    num_sequences: int,
    num_times: int,
    head: Head | None = None,
    grouping: Grouping = SHARED,
    spelling: Spelling | None = None,
    weights: str = "as trained",
    progress: bool = False,
) -> ValidationBound:
    """The bound over `loader`, whose draws are numbered as `noising.ValidationBatches` does. Every process gets it.

    `head` and `grouping` are as for `loss_sums`; `spelling` tells the characters of the sequences, `weights` (words for the
    report) what the model's weights are; `progress` shows a bar on stderr if that is a terminal.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(num_sequences * num_times, dtype=torch.float64)
    counts = torch.zeros_like(sums)
    for batch in tqdm(loader, desc="validate", disable=None if progress else True, leave=False):
        _, nelbo = loss_sums(model, scheduler, batch, head=head, grouping=grouping)
        row = (batch["position"], nelbo.double() * batch["weight"], batch["noisable"].sum(-1))
        position, nelbo, count = (part.cpu() for part in accelerator.gather(row))
        # By position, as the last batch of a process may repeat draws to be full.
        sums[position], counts[position] = nelbo, count.double()
    model.train(was_training)
    sums, counts = sums.view(-1, num_times).mean(-1), counts.view(-1, num_times)[:, 0]
    return summarise(sums, counts, num_times, spelling, weights)
