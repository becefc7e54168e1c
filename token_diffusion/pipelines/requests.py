"""Several requests in one batch, stepped together: what a pipeline's call, and each step of it, is about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..engine.batch import Batch
from ..networks.denoiser import block_size_of
from ..samplers.parameters import SamplingParameters


class Requests:
    """Several requests in one batch, stepped together to their ends; what any of them draws is what it draws alone.

    Args:
        requests: tokens [seq_len] as `sample` takes them, and the parameters of each; their lengths may differ.

    Attributes:
        states: int64 [num_samples, seq_len] on the CPU of each request, its tokens so far. logprobs: float64 beside them, as in
            `SampleOutput`; NaN where they are not asked for.
        nfe: network evaluations of each so far. total: grid steps of the one that has most.
    """

    def __init__(
        self,
        denoiser: Any,
        scheduler: TokenDiffusionScheduler,
        requests: Sequence[tuple[Sequence[int], SamplingParameters]],
        device: str | torch.device | None = None,
    ) -> None:
        self._batch, block_size = Batch(denoiser, scheduler, device=device), block_size_of(denoiser)
        requests = [(tokens, parameters.for_network(block_size)) for tokens, parameters in requests]
        self.states = [torch.tensor(self._batch.add(key, *request)) for key, request in enumerate(requests)]
        decoders: list[Any] = [self._batch.samplers.of(parameters) for _, parameters in requests]
        self._steps = [each.steps(*request) for each, request in zip(decoders, requests, strict=True)]
        self._grids = [each.grid(parameters) for each, (_, parameters) in zip(decoders, requests, strict=True)]
        self.logprobs = [torch.full(state.shape, torch.nan, dtype=torch.float64) for state in self.states]
        self._left, self._t, self.nfe = list(self._steps), [1.0] * len(requests), [0] * len(requests)
        self.total = max(self._steps)

    @property
    def finished(self) -> bool:
        return self._batch.idle

    @property
    def done(self) -> int:
        """Grid steps, of `total`, that the one with most before it has behind it, skipped ones included."""
        return self.total - max(self._left)

    @property
    def t(self) -> float:
        """The time that the last grid step of that one started at; without a grid the time that it has reached."""
        slowest = max(range(len(self._left)), key=lambda key: (self._left[key], self._steps[key]))
        n, step = self._grids[slowest], self._steps[slowest] - self._left[slowest]
        return self._t[slowest] if n is None or step == 0 else 1 - (step - 1) % n / n

    def step(self) -> None:
        """One network evaluation for each request that is not finished.

        Raises:
            FloatingPointError: the network's logits hold no distribution.
        """
        for update in self._batch.sweep():
            if update.error is not None:
                raise FloatingPointError(update.error)
            key: Any = update.key
            self._t[key], self.nfe[key] = update.t, update.nfe
            self._left[key] = 0 if update.result is not None else self._steps[key] - update.step
            if update.changes:
                sample, position, token = torch.tensor(update.changes).T
                self.states[key][sample, position] = token
                if update.logprobs is not None:
                    told = [math.nan if value is None else value for value in update.logprobs]
                    self.logprobs[key][sample, position] = torch.tensor(told, dtype=torch.float64)
