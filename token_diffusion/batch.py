"""The one step loop: rows join, are planned, share a forward pass, commit and leave.

Offline sampling, the server, tests and benchmarks all drive this class. Not thread-safe: one thread owns a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .denoiser import as_denoiser
from .errors import ParameterError
from .parameters import SamplingParameters
from .rows import Rows, make_rows
from .samplers import make_sampler
from .samplers.sampler import split
from .scheduler import TokenDiffusionScheduler


@dataclass(frozen=True)
class BlockEnd:
    """Block number `block`, positions [start, end), is filled in every sample."""

    block: int
    start: int
    end: int


@dataclass(frozen=True)
class Result:
    """A finished request.

    tokens, step_map: [num_samples][seq_len]; step_map says which step last set a position, 0 for fixed and initial ones.
    nfe: network evaluations, one after the other (samples of a request share them). forwards_skipped: grid steps that
    needed none. prompt_tokens: fixed positions; completion_tokens: filled ones, over all samples.
    """

    tokens: list[list[int]]
    step_map: list[list[int]]
    nfe: int
    forwards_skipped: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Update:
    """What one tick did to a request. `changes` are (sample, position, token_id): set, never append.

    step: grid steps done by the slowest sample. t: the time it reached. result: there with the last update.
    """

    key: Hashable
    step: int
    t: float
    nfe: int
    changes: list[tuple[int, int, int]]
    blocks: list[BlockEnd]
    result: Result | None


@dataclass
class _Request:
    """The host's side of a request."""

    key: Hashable
    parameters: SamplingParameters
    open: list[int]
    tokens: list[list[int]]
    num_blocks: int
    step_map: list[list[int]]
    progress: list[tuple[int, int, float]]  # a sample: step, blocks done, t
    nfe: int = 0
    blocks_told: int = 0
    changes: list[tuple[int, int, int]] = field(default_factory=list)

    def update(self, last_step: int) -> Update:
        step, _, t = min(self.progress)
        done = min(blocks for _, blocks, _ in self.progress)
        blocks = [self._block(index) for index in range(self.blocks_told, done)]
        self.blocks_told = max(self.blocks_told, done)
        changes, self.changes = self.changes, []
        finished = step >= last_step
        return Update(self.key, step, t, self.nfe, changes, blocks, self._result() if finished else None)

    def _block(self, index: int) -> BlockEnd:
        length = len(self.tokens[0])
        size = self.parameters.block_size or length
        start = self.open[0] + index * size
        return BlockEnd(index, start, min(start + size, length))

    def _result(self) -> Result:
        steps = (self.parameters.num_inference_steps or 0) * self.num_blocks
        fixed = len(self.tokens[0]) - len(self.open)
        skipped = max(steps - self.nfe, 0)
        filled = len(self.open) * len(self.tokens)
        return Result(self.tokens, self.step_map, self.nfe, skipped, fixed, filled)


class Batch:
    """Rows of one denoiser, each with its own step, length, parameters and randomness, sharing every forward pass."""

    def __init__(
        self, denoiser: Any, scheduler: TokenDiffusionScheduler, *, device: str | torch.device | None = None
    ) -> None:
        self.denoiser, self.scheduler = as_denoiser(denoiser), scheduler
        self.sampler = make_sampler(scheduler)
        self.device = (
            torch.device(device) if device is not None else getattr(self.denoiser, "device", torch.device("cpu"))
        )
        self._rows: Rows | None = None
        self._owners: list[tuple[_Request, int]] = []  # a row: its request and sample index
        self._complete: list[_Request] = []  # had nothing to fill in

    def __len__(self) -> int:
        return len(self._owners)

    @torch.inference_mode()
    def add(self, key: Hashable, tokens: Sequence[int], parameters: SamplingParameters) -> list[list[int]]:
        """Rows for a request join before the next step.

        Args:
            key: names the request in updates. tokens: [seq_len] token ids, negative where the sampler fills in.

        Returns:
            The initial state, [num_samples][seq_len].

        Raises:
            ParameterError: tokens do not fit `seq_len` or the vocabulary, or the sampler has no such grid.
        """
        self._check(tokens, parameters)
        rows = make_rows(tokens, parameters, self.device)
        self.sampler.prepare(rows)
        initial = rows.tokens.tolist()
        count, length = parameters.num_samples, len(tokens)
        open_positions = [index for index, token in enumerate(tokens) if token < 0]
        request = _Request(
            key,
            parameters,
            open=open_positions,
            tokens=[list(row) for row in initial],
            num_blocks=int(rows.num_blocks[0]),
            step_map=[[0] * length for _ in range(count)],
            progress=[(0, 0, 1.0 if open_positions else 0.0)] * count,
        )
        if not request.open:
            self._complete.append(request)
            return initial
        self._rows = rows if self._rows is None else Rows.join(self._rows, rows)
        self._owners += [(request, index) for index in range(count)]
        return initial

    def remove(self, key: Hashable) -> None:
        """The request's rows are gone before the next step; an unknown key is ignored."""
        self._complete = [request for request in self._complete if request.key != key]
        self._keep([request.key != key for request, _ in self._owners])

    @torch.inference_mode()
    def step(self) -> list[Update]:
        """One tick: plan, one forward pass over all rows, commit. Returns an update for each request; [] when idle."""
        updates = [request.update(0) for request in self._complete]
        self._complete = []
        rows = self._rows
        if rows is None:
            return updates
        plan = self.sampler.plan(rows)
        if plan.positions.numel():
            logits = self.denoiser(rows.tokens, plan.t, self.sampler.visible(rows), plan.positions)
            before = rows.tokens.view(-1)[plan.positions]
            tokens = self.sampler.commit(rows, plan, logits)
            rows.nfe.add_(1)
            changed = tokens != before
            self._record(rows, plan.step, plan.positions[changed], tokens[changed])
        return updates + self._updates(rows)

    def _record(self, rows: Rows, event_step: Tensor, positions: Tensor, tokens: Tensor) -> None:
        """Carries a tick's changes and progress to the requests, through one copy to the host."""
        row, column = split(positions, rows.tokens.shape[1])
        per_row = [event_step, rows.step, rows.blocks_done, rows.nfe, rows.t.view(torch.int64)]
        sent = torch.cat([*per_row, row, column, tokens]).cpu()
        count, n = len(rows), positions.numel()
        events, step, blocks, nfe, t, row, column, tokens = sent.split([count] * 5 + [n] * 3)
        progress = zip(step.tolist(), blocks.tolist(), t.view(torch.float64).tolist(), strict=True)
        for (request, sample), state, evaluations in zip(self._owners, progress, nfe.tolist(), strict=True):
            request.progress[sample] = state
            request.nfe = max(request.nfe, evaluations)
        set_at = events.tolist()
        for index, position, token in zip(row.tolist(), column.tolist(), tokens.tolist(), strict=True):
            request, sample = self._owners[index]
            request.tokens[sample][position] = token
            request.step_map[sample][position] = set_at[index]
            request.changes.append((sample, position, token))

    def _updates(self, rows: Rows) -> list[Update]:
        last_steps = rows.last_step.tolist()
        updates = {}
        for (request, _), last_step in zip(self._owners, last_steps, strict=True):
            if id(request) not in updates:
                updates[id(request)] = request.update(last_step)
        finished = [
            request.progress[sample][0] >= last
            for (request, sample), last in zip(self._owners, last_steps, strict=True)
        ]
        self._keep([not done for done in finished])
        return list(updates.values())

    def _keep(self, keep: list[bool]) -> None:
        if all(keep) or self._rows is None:
            return
        self._owners = [owner for owner, kept in zip(self._owners, keep, strict=True) if kept]
        index = torch.tensor(keep, device=self.device)
        self._rows = self._rows.select(index).trimmed() if self._owners else None

    def _check(self, tokens: Sequence[int], parameters: SamplingParameters) -> None:
        self.sampler.check(parameters.num_inference_steps)
        if len(tokens) != parameters.seq_len:
            raise ParameterError("tokens", f"have seq_len = {parameters.seq_len} entries", len(tokens))
        vocab_size, mask_token_id = self.scheduler.config.vocab_size, self.scheduler.config.mask_token_id
        if mask_token_id in tokens:
            raise ParameterError("tokens", "hold -1 where the sampler fills in, not the mask token", mask_token_id)
        if (largest := max(tokens)) >= vocab_size:
            raise ParameterError("tokens", f"be below vocab_size = {vocab_size}", largest)
