"""A training step twice: the trainer's own, and a plain loop around the loss as its authors' code writes it.

Both start from the same weights and take the same batches, AdamW, clipping and learning rate. The plain loop knows nothing
else of the trainer; it reads its loss at each step, as the authors' loops do to log it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from trainer.accelerator import make_accelerator
from trainer.config import HybridConfig, MDLMConfig, TrainingConfig, UDLMConfig
from trainer.data.corpus import load_corpus
from trainer.data.feed import Batch, Feed, make_feed
from trainer.evaluation.validation import loss_sums
from trainer.output.files import check_output_dir
from trainer.run.optimizer import make_optimizer
from trainer.run.train import Run

from ..models import VOCAB_SIZE, random_model, random_tokenizer, save_random
from .losses import LOSSES

COMMANDS: dict[str, tuple[type[TrainingConfig], dict[str, Any]]] = {
    "absorbing": (MDLMConfig, {}),
    "uniform": (UDLMConfig, {"exclude_mask_from_uniform": False}),
    "hybrid": (HybridConfig, {"loss_weighting": "elbo"}),
}
"""forward process -> the trainer's command, and the flags with which it minimises what `losses` computes."""

PRECISIONS: dict[str, Literal["no", "bf16"]] = {"float32": "no", "bfloat16": "bf16"}
"""dtype -> the trainer's mixed precision."""
NUM_WORDS = 80_000
"""Of the text: few enough for the trainer to keep none of it in the user's cache."""
MAX_STEPS = 100_000


@dataclass(frozen=True)
class Bench:
    """Where and at what size steps are made; `folder` is filled by `write`."""

    folder: Path
    device: str
    dtype: str
    batch_size: int
    seq_len: int

    @property
    def tokens(self) -> int:
        """Of a batch."""
        return self.batch_size * self.seq_len

    def write(self) -> None:
        """The random model, and text without special tokens that fills whole batches: every token counts."""
        save_random(self.folder, "absorbing")
        special = set(random_tokenizer().all_special_ids)
        ids = [token for token in range(VOCAB_SIZE) if token not in special]
        words = random.Random(0).choices(ids, k=max(NUM_WORDS // self.tokens, 1) * self.tokens)
        lines = [" ".join(f"word{token}" for token in words[i : i + 100]) for i in range(0, len(words), 100)]
        (self.folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")

    def config(self, process: str, **flags: Any) -> TrainingConfig:
        """The trainer's flags."""
        command, own = COMMANDS[process]
        return command(
            model_name_or_path=str(self.folder),
            train_file=[self.folder / "text.txt"],
            packing=True,
            max_length=self.seq_len,
            per_device_train_batch_size=self.batch_size,
            output_dir=self.folder / process,
            mixed_precision=PRECISIONS[self.dtype],
            max_train_steps=MAX_STEPS,
            checkpointing_steps=MAX_STEPS + 1,
            **own,
            **flags,
        )

    def run(self, process: str) -> Run:
        """The trainer before its first step. Raises ValueError if it would not train on the device."""
        os.environ["ACCELERATE_USE_CPU"] = str(self.device == "cpu").lower()
        config = self.config(process)
        check_output_dir(config.output_dir)
        run = Run(config, make_accelerator(config), load_corpus(config))
        if run.accelerator.device.type != torch.device(self.device).type:
            raise ValueError(f"device must be what accelerate takes, {run.accelerator.device}, got {self.device}")
        run.model.train()
        return run

    def streamed(self, run: Run) -> Feed:
        """A feed that reads and tokenises the same text while training, shuffled in blocks of an epoch."""
        sequences = run.feed.num_sequences
        config = self.config(run.config.process, streaming=True, shuffle_buffer_size=sequences)
        return make_feed(config, run.accelerator, load_corpus(config), run.tokenizer, run.scheduler, run.feed.facts)


class Side(Protocol):
    """One way to make a step."""

    @property
    def model(self) -> nn.Module: ...

    def nats(self, batch: Batch) -> Tensor:
        """The loss, summed over the batch's tokens."""

    def step(self, batch: Batch) -> None:
        """One optimizer step."""


class Ours:
    """The trainer's step, as `Run.fit` makes it."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @property
    def model(self) -> nn.Module:
        return self.run.model

    def nats(self, batch: Batch) -> Tensor:
        """Without the divergence of the prior, which the authors take for 0 and no network can change."""
        prior = self.run.scheduler.process.prior_divergence * batch["noisable"].sum()
        return self._sums(self.model, batch)[0].sum() - prior

    def step(self, batch: Batch) -> None:
        self.run.learner.optimize([batch], self._sums, stopping=lambda: self.run.signals.received is not None)

    def _sums(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return loss_sums(model, self.run.scheduler, batch, self.run.config.weighting, self.run.learner.head)


class PlainLoop:
    """The authors' loss under the run's settings."""

    def __init__(self, run: Run) -> None:
        config, self.device, self.scheduler = run.config, run.accelerator.device, run.scheduler
        self.loss, self.max_grad_norm = LOSSES[config.process], config.max_grad_norm
        self.mixed = config.mixed_precision == "bf16"
        self.model: Any = random_model(str(self.device)).train()
        self.optimizer = make_optimizer(config, self.model)
        steps = config.lr_warmup_steps, config.max_train_steps
        self.lr_scheduler = get_scheduler(config.lr_scheduler, self.optimizer, *steps)

    def nats(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            logits = self.model(input_ids=batch["noisy"], attention_mask=batch["attention_mask"]).logits
            loss = self.loss(self.scheduler, logits, batch["clean"], batch["noisy"], batch["timesteps"])
        return (loss * batch["attention_mask"]).sum()

    def step(self, batch: Batch) -> None:
        loss = self.nats(batch) / batch["attention_mask"].sum()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        loss.item()


SIDES: dict[str, type[PlainLoop] | type[Ours]] = {"textbook": PlainLoop, "ours": Ours}


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients."""
    model.eval()
    with torch.no_grad():
        yield
    model.train()


def difference(sides: dict[str, Side], batch: Batch) -> float:
    """Relative difference of the two losses; the sides have the same weights."""
    nats = {}
    for name, side in sides.items():
        with without_dropout(side.model):
            nats[name] = float(side.nats(batch))
    return abs(nats["textbook"] - nats["ours"]) / abs(nats["ours"])
