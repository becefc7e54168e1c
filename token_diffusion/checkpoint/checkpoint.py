"""A loaded folder: what the server, the shell and the trainer ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..errors import ParameterError
from ..facts import UNKNOWN, Facts
from ..networks.denoiser import Denoiser, block_size_of, num_classes_of
from ..networks.groups import Batching
from ..networks.masked_lm import TimeInput, time_input

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,  # read as that, quantised then
}


@dataclass(frozen=True)
class Checkpoint:
    """A loaded folder, ready to sample from. `max_seq_len` is None where the model has no bound on positions.

    dtype: of the weights, one of `DTYPES`. batching: which rows may share a forward pass. facts: how its training sequences
    were framed, and what of them was learnt. family: the published format of the folder, None for our own.
    backend: who computes the forward passes, one of `BACKENDS`. model: one of another backend may have no weights any more.
    denoiser: what samples are drawn from; it says which ids are `forbidden`, and which are `ends`.
    """

    name: str
    path: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    scheduler: TokenDiffusionScheduler
    denoiser: Denoiser
    max_seq_len: int | None
    dtype: str
    batching: Batching = "shared"
    facts: Facts = UNKNOWN
    family: str | None = None
    backend: str = "torch"

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Ids that no sample holds: padding, control tokens that are not learnt, and ids without a token."""
        return self.facts.forbidden(self.tokenizer, self.scheduler.config.vocab_size)

    @property
    def process(self) -> str:
        """ "absorbing", "uniform" or "hybrid"."""
        return self.scheduler.config.forward_process

    @property
    def alpha_schedule(self) -> str | None:
        """By what noise grows with time, unless the process has a way of its own for that, as hybrid has."""
        return self.scheduler.config.alpha_schedule if hasattr(self.scheduler.process, "schedule") else None

    @property
    def time_input(self) -> TimeInput:
        """What the model's answer follows of the time."""
        return time_input(self.model)

    @property
    def device(self) -> str:
        return str(self.denoiser.device)

    @property
    def num_classes(self) -> int:
        """How many labels the model knows."""
        return num_classes_of(self.denoiser)

    @property
    def block_size(self) -> int | None:
        """The positions of a block, of a model in which none sees those of later blocks; None where all see all."""
        return block_size_of(self.denoiser)

    def check_seq_len(self, seq_len: int) -> None:
        """Raises `ParameterError` when the model has fewer positions than `seq_len`."""
        if self.max_seq_len is not None and seq_len > self.max_seq_len:
            raise ParameterError("seq_len", f"be at most {self.max_seq_len}, the positions of {self.name}", seq_len)
