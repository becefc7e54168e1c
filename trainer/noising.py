"""Noisy examples: which sequence, at which t, with which noise.

A draw is one (sequence, t, seed): its noise is a function of these three, made on the CPU for the sequence alone.
So a run is the same however its batches are split over accumulation steps, processes, workers and padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from token_diffusion.scheduler import TokenDiffusionScheduler

TRAINING, ORDER, VALIDATION = range(3)


class Draw(NamedTuple):
    """A noisy example to make: a sequence (its index) at time `t` in (0, 1], noise from `seed`; `position` counts."""

    sequence: int
    t: float
    seed: int
    position: int


class NoisyExamples(Dataset[dict[str, Tensor]]):
    """Sequences with noise, indexed by `Draw`."""

    def __init__(
        self, sequences: Sequence[np.ndarray], scheduler: TokenDiffusionScheduler, special_ids: Sequence[int]
    ) -> None:
        self.sequences = sequences
        self.scheduler = scheduler
        self.special_ids = torch.tensor(sorted(set(special_ids)), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        """`clean`, `noisy` int64 [L], `noisable` bool [L] (no special token), `timesteps` and `position` scalars."""
        clean = torch.from_numpy(self.sequences[draw.sequence].astype(np.int64))
        noisable = torch.isin(clean, self.special_ids, invert=True)
        timesteps = torch.tensor([draw.t], dtype=torch.float64)
        generator = torch.Generator().manual_seed(draw.seed)
        noisy = self.scheduler.add_noise(clean.unsqueeze(0), timesteps=timesteps, generator=generator).squeeze(0)
        return {
            "clean": clean,
            "noisy": torch.where(noisable, noisy, clean),
            "noisable": noisable,
            "timesteps": timesteps.squeeze(0),
            "position": torch.tensor(draw.position),
        }


class Collate:
    """Pads examples to the longest of their batch: tensors [B, L], and [B] for `timesteps` and `position`."""

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
            "timesteps": torch.stack([example["timesteps"] for example in examples]),
            "position": torch.stack([example["position"] for example in examples]),
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


class TrainingBatches(Batches):
    """The draws of `num_steps` optimizer steps of `window` examples each: shuffled epochs, stratified times.

    The window counts the examples of all processes and accumulation steps, and the times are stratified over it:
    u_i = (i + offset) / window with one offset a step, dealt out in random order.
    """

    def __init__(self, *, num_sequences: int, batch_size: int, window: int, num_steps: int, seed: int) -> None:
        super().__init__(batch_size)
        self.num_sequences, self.window, self.num_steps, self.seed = num_sequences, window, num_steps, seed

    def __len__(self) -> int:
        return self.num_steps * self.window // self.batch_size

    def draws(self) -> Iterator[Draw]:
        order = self._order()
        for step in range(self.num_steps):
            generator = np.random.default_rng([self.seed, TRAINING, step])
            strata = generator.permutation(self.window)
            times = 1 - (strata + generator.random()) / self.window
            seeds = generator.integers(2**63, size=self.window)
            for i in range(self.window):
                yield Draw(next(order), float(times[i]), int(seeds[i]), step * self.window + i)

    def _order(self) -> Iterator[int]:
        epoch = 0
        while True:
            yield from np.random.default_rng([self.seed, ORDER, epoch]).permutation(self.num_sequences).tolist()
            epoch += 1


class ValidationBatches(Batches):
    """Every sequence at `num_times` stratified times; draw j * num_times + k is sequence j in stratum k."""

    def __init__(self, *, num_sequences: int, num_times: int, batch_size: int) -> None:
        super().__init__(batch_size)
        self.num_sequences, self.num_times = num_sequences, num_times

    def __len__(self) -> int:
        return -(-self.num_sequences * self.num_times // self.batch_size)

    def draws(self) -> Iterator[Draw]:
        for sequence in range(self.num_sequences):
            generator = np.random.default_rng([0, VALIDATION, sequence])
            times = 1 - (np.arange(self.num_times) + generator.random()) / self.num_times
            seeds = generator.integers(2**63, size=self.num_times)
            for k in range(self.num_times):
                yield Draw(sequence, float(times[k]), int(seeds[k]), sequence * self.num_times + k)


def make_loader(examples: NoisyExamples, batches: Batches, *, pad_token_id: int, num_workers: int) -> DataLoader:
    return DataLoader(
        examples,
        batch_sampler=batches,
        collate_fn=Collate(pad_token_id),
        num_workers=num_workers,
    )
