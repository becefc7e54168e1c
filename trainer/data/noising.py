"""Noisy examples: which sequence, at which t, with which noise.

A draw is one (sequence, t, seed): its noise is a function of these three, made on the CPU for the sequence alone.
So a run is the same however its batches are split over accumulation steps, processes, workers and padding, and goes on
the same from any step.

Absorbing noise can also be drawn by its count (`token_diffusion/diffusion/times.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from token_diffusion.diffusion.processes import Absorbing
from token_diffusion.diffusion.scheduler import TokenDiffusionScheduler
from token_diffusion.diffusion.times import time_of_count
from token_diffusion.facts import UNKNOWN, Frame

from ..signals import ignore_stop_signals

TRAINING, ORDER, VALIDATION = range(3)
LABEL = 2
"""Tells the draw of whether a label is shown from those of noise and length, which have the same seed."""
SCALARS = ("timesteps", "weight", "position", "label")


class Draw(NamedTuple):
    """A noisy example to make: a sequence (its index) at time `t` in (0, 1], noise from `seed`; `position` counts.

    weight: what its NELBO is multiplied by, one over the density that `t` was drawn with.
    """

    sequence: int
    t: float
    seed: int
    position: int
    weight: float = 1.0


class NoisyExamples(Dataset[dict[str, Tensor]]):
    """Sequences with noise, indexed by `Draw`.

    special_ids are never noised, nor is what lies in the frame; counted: absorbing noise is drawn by its count, with draw.t as
    l / n. margin: t is kept so far from 0 and 1. labels: int64 [n]; label_dropout: the share of draws that are shown none, -1.
    """

    def __init__(
        self,
        sequences: Sequence[np.ndarray],
        scheduler: TokenDiffusionScheduler,
        special_ids: Sequence[int],
        *,
        frame: Frame = UNKNOWN.frame,
        counted: bool = False,
        margin: float = 0.0,
        labels: np.ndarray | None = None,
        label_dropout: float = 0.0,
    ) -> None:
        self.sequences = sequences
        self.scheduler = scheduler
        self.special_ids = torch.tensor(sorted(set(special_ids)), dtype=torch.int64)
        self.frame, self.counted, self.margin = frame, counted, margin
        self.labels, self.label_dropout = labels, label_dropout

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        label = None if self.labels is None else int(self.labels[draw.sequence])
        return self.noised(self.sequences[draw.sequence], draw, label)

    def noised(self, ids: np.ndarray, draw: Draw, label: int | None = None) -> dict[str, Tensor]:
        """The draw's noise on the token ids [L].

        Returns:
            `clean`, `noisy` int64 [L], `noisable` bool [L], and the scalars `timesteps`, `weight`
            (float64; what the NELBO of the sequence is multiplied by), `position` and, of a sequence with one, `label`.
        """
        clean = torch.from_numpy(ids.astype(np.int64))
        noisable = torch.isin(clean, self.special_ids, invert=True)
        noisable[: len(self.frame.prefix)] = False
        noisable[len(noisable) - len(self.frame.suffix) :] = False
        example = self.with_noise(clean, noisable, draw)
        return example if label is None else {**example, "label": torch.tensor(self._shown(label, draw))}

    def _shown(self, label: int, draw: Draw) -> int:
        """The label, or -1 for none: training without some is what guidance needs (D-CFG, arXiv 2412.10193)."""
        return -1 if np.random.default_rng([draw.seed, LABEL]).random() < self.label_dropout else label

    def with_noise(self, clean: Tensor, noisable: Tensor, draw: Draw) -> dict[str, Tensor]:
        """The draw's noise where `noisable` (bool [L]) allows it; returns as `noised` does."""
        generator = torch.Generator().manual_seed(draw.seed)
        if self.counted:
            noisy, t, weight = mask_count(self.scheduler, clean, noisable, draw.t, generator)
        else:
            t = torch.tensor(min(max(draw.t, self.margin), 1 - self.margin), dtype=torch.float64)
            weight = torch.tensor(draw.weight, dtype=torch.float64)
            noisy = self.scheduler.add_noise(clean.unsqueeze(0), timesteps=t.reshape(1), generator=generator)[0]
        return {
            "clean": clean,
            "noisy": torch.where(noisable, noisy, clean),
            "noisable": noisable,
            "timesteps": t,
            "weight": weight,
            "position": torch.tensor(draw.position),
        }


def mask_count(
    scheduler: TokenDiffusionScheduler, clean: Tensor, noisable: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks exactly l = ceil(share n) of the n noisable tokens of `clean` [L], all choices equally likely.

    Returns:
        The noisy tokens [L]; the t at which l / n of the tokens are expected to be masked; and the factor that turns that
        t's weight in the NELBO, -alpha'(t) / (1 - alpha(t)), into n / l. Both scalars are float64.
    """
    process = scheduler.process
    assert isinstance(process, Absorbing)
    places = noisable.nonzero().squeeze(-1)
    n = max(len(places), 1)
    count = min(max(math.ceil(share * n), 1), n)
    chosen = places[torch.randperm(len(places), generator=generator)[:count]]
    noisy = clean.index_fill(0, chosen, process.states.mask_token_id)
    return noisy, *time_of_count(process, torch.tensor(count / n, dtype=torch.float64))


class Collate:
    """Pads examples to the longest of their batch: tensors [B, L], and [B] for the scalars that they have."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        def padded(name: str, value: int) -> Tensor:
            rows = [example[name] for example in examples]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        lengths = torch.tensor([len(example["clean"]) for example in examples])
        noisable = padded("noisable", 0)
        return {
            "clean": padded("clean", self.pad_token_id),
            "noisy": padded("noisy", self.pad_token_id),
            "noisable": noisable,
            "attention_mask": (torch.arange(noisable.shape[1]) < lengths.unsqueeze(1)).long(),
            **{name: torch.stack([each[name] for each in examples]) for name in SCALARS if name in examples[0]},
        }


class Batches:
    """A batch sampler of draws; accelerate deals its batches to the processes in turn."""

    drop_last = False

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def draws(self) -> Iterator[Draw]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[Draw]]:
        batch: list[Draw] = []
        for draw in self.draws():
            batch.append(draw)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch


@dataclass(frozen=True)
class Window:
    """The noise of optimizer steps of `size` examples each: what the examples are is another matter.

    The window counts the examples of all processes and accumulation steps, and the times are stratified over it:
    u_i = (i + offset) / size with one offset a step, dealt out in random order. Without `stratified` each is drawn by itself.
    """

    size: int
    seed: int
    stratified: bool = True

    def noise(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Times float64 [size] in (0, 1] and seeds int64 [size] of a step (the first is 0)."""
        generator = np.random.default_rng([self.seed, TRAINING, step])
        if self.stratified:
            strata = generator.permutation(self.size)
            times = 1 - (strata + generator.random()) / self.size
        else:
            times = 1 - generator.random(self.size)
        return times, generator.integers(2**63, size=self.size)


class TrainingBatches(Batches):
    """The draws of the optimizer steps `first_step` (0 at the start) to `num_steps` - 1: shuffled epochs."""

    def __init__(
        self, *, num_sequences: int, batch_size: int, window: Window, num_steps: int, first_step: int = 0
    ) -> None:
        super().__init__(batch_size)
        self.num_sequences, self.window = num_sequences, window
        self.steps = range(first_step, num_steps)

    def __len__(self) -> int:
        return len(self.steps) * self.window.size // self.batch_size

    def draws(self) -> Iterator[Draw]:
        order = self._order(self.steps.start * self.window.size)
        for step in self.steps:
            times, seeds = self.window.noise(step)
            for i in range(self.window.size):
                yield Draw(next(order), float(times[i]), int(seeds[i]), step * self.window.size + i)

    def _order(self, start: int) -> Iterator[int]:
        epoch, start = divmod(start, self.num_sequences)
        while True:
            order = np.random.default_rng([self.window.seed, ORDER, epoch]).permutation(self.num_sequences)
            yield from order[start:].tolist()
            epoch, start = epoch + 1, 0


class ValidationBatches(Batches):
    """Every sequence at `num_times` stratified times; draw j * num_times + k is sequence j in stratum k.

    power: t = u^power with u stratified over (0, 1], each draw weighed by dt/du. See `time_power`.
    """

    def __init__(
        self, *, num_sequences: int, num_times: int, batch_size: int, seed: int = 0, power: float = 1.0
    ) -> None:
        super().__init__(batch_size)
        self.num_sequences, self.num_times, self.seed, self.power = num_sequences, num_times, seed, power

    def __len__(self) -> int:
        return -(-self.num_sequences * self.num_times // self.batch_size)

    def draws(self) -> Iterator[Draw]:
        for sequence in range(self.num_sequences):
            generator = np.random.default_rng([self.seed, VALIDATION, sequence])
            u = 1 - (np.arange(self.num_times) + generator.random()) / self.num_times
            seeds = generator.integers(2**63, size=self.num_times)
            times, weights = u**self.power, self.power * u ** (self.power - 1)
            for k in range(self.num_times):
                position = sequence * self.num_times + k
                yield Draw(sequence, float(times[k]), int(seeds[k]), position, float(weights[k]))


def padding(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills up a batch: PAD, else the mask. It is neither attended to, nor noised, nor counted."""
    return int(tokenizer.mask_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def make_loader(examples: NoisyExamples, batches: Batches, *, pad_token_id: int, num_workers: int) -> DataLoader:
    return DataLoader(
        examples,
        batch_sampler=batches,
        collate_fn=Collate(pad_token_id),
        num_workers=num_workers,
        worker_init_fn=ignore_stop_signals,
        # The loader seeds its workers from it, and from the global generator otherwise: that must depend on steps alone.
        generator=torch.Generator(),
    )
