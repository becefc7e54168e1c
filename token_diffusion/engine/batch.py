"""The one step loop: rows join, are planned, share a forward pass, commit and leave.

Offline sampling, the server, tests and benchmarks all drive this class. Not thread-safe: one thread owns a batch.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..errors import ParameterError
from ..networks.denoiser import as_denoiser
from ..networks.rowwise import Rowwise
from ..samplers import make_sampler
from ..samplers.parameters import SamplingParameters
from ..samplers.rows import Rows, make_rows
from .lane import Lane, Member, Turns, bucket
from .request import Request
from .updates import BlockEnd, Result, Update

__all__ = ["Batch", "BlockEnd", "Determinism", "Result", "Update"]

Determinism = Literal["exact", "fast"]


class Batch:
    """Rows of one denoiser, each with its own step, length, parameters and randomness, sharing forward passes.

    Rows of about one length lie in a lane, so that little is computed for padding; a tick steps one lane.

    Args:
        denoiser: a masked LM of transformers, a `Denoiser`, or a callable `(tokens [B, L], t [B]) -> logits [B, L, V]`.
        device: where the network wants its input; its own by default.
        max_tokens: most tokens of a forward pass, padding included; one row goes through whatever its length. None: no bound.
        determinism: "exact" gives each row a forward pass of its own, so that neighbours cannot change even its rounding.
        turns: shared by batches of which one thread steps the lanes in turn.
    """

    def __init__(
        self,
        denoiser: Any,
        scheduler: TokenDiffusionScheduler,
        *,
        device: str | torch.device | None = None,
        max_tokens: int | None = None,
        determinism: Determinism = "fast",
        turns: Turns | None = None,
    ) -> None:
        self.denoiser, self.scheduler = as_denoiser(denoiser), scheduler
        self.sampler = make_sampler(scheduler)
        own: str | torch.device = getattr(self.denoiser, "device", "cpu")
        self.device = torch.device(own if device is None else device)
        if determinism == "exact":
            self.denoiser = Rowwise(self.denoiser)
        elif determinism != "fast":
            raise ParameterError("determinism", "be exact or fast", determinism)
        self.max_tokens = math.inf if max_tokens is None else max_tokens
        self.turns = turns or Turns()
        self.lanes: list[Lane] = []
        self._complete: list[Request] = []  # had nothing to fill in

    def __len__(self) -> int:
        """Rows that are not finished."""
        return sum(len(lane) for lane in self.lanes)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not (self.lanes or self._complete)

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
        rows = make_rows(tokens, parameters)
        self.sampler.prepare(rows)
        request = Request(key, tokens, parameters, rows)
        initial: list[list[int]] = rows.tokens.tolist()
        if request.open:
            for samples in self._shares(len(rows), len(tokens)):
                self._place(rows.select(samples), Member(request, samples.numpy()))
        else:
            self._complete.append(request)
        return initial

    def remove(self, key: Hashable) -> None:
        """The request's rows are gone before the next step; an unknown key is ignored."""
        self._complete = [request for request in self._complete if request.key != key]
        for lane in self.lanes:
            lane.remove(key)
        self._tidy()

    @torch.inference_mode()
    def step(self, lane: Lane | None = None) -> list[Update]:
        """One tick of `lane`, by default of the one whose turn it is. An update for each request in it; [] when idle.

        A request of which the network makes no distribution (NaN) leaves with an update that has an `error`.
        """
        updates = self.complete()
        if not self.lanes:
            return updates
        lane = lane or self.turns.next(self.lanes)
        stepped = lane.step(self.denoiser, self.sampler, self.device)
        for update in stepped:
            if update.error is not None:
                self.remove(update.key)
        self._tidy()
        return updates + stepped

    def complete(self) -> list[Update]:
        """The one update of each request that had nothing to fill in; for who does not want to wait for the next step."""
        updates = [request.update([]) for request in self._complete]
        self._complete = []
        return updates

    def _shares(self, count: int, length: int) -> Iterator[torch.Tensor]:
        """Sample indices of a request, as many together as one forward pass takes."""
        most = count if self.max_tokens == math.inf else max(1, int(self.max_tokens // length))
        return iter(torch.arange(count).split(most))

    def _place(self, rows: Rows, member: Member) -> None:
        length = rows.tokens.shape[1]
        number = bucket(length, self.device)
        for lane in self.lanes:
            if lane.bucket == number and lane.takes(len(rows), length, self.max_tokens):
                lane.join(rows, [member])
                return
        self.lanes.append(Lane(number, self.turns.clock, rows, member))

    def _tidy(self) -> None:
        """Drops lanes that are empty, and puts two of one bucket together once they fit into one forward pass."""
        kept: list[Lane] = []
        for lane in filter(len, self.lanes):
            other = next((other for other in kept if other.bucket == lane.bucket), None)
            if other is not None and other.takes(len(lane), lane.length, self.max_tokens):
                other.join(lane.rows, lane.members, lane.is_new)
                other.clock = max(other.clock, lane.clock)
            else:
                kept.append(lane)
        self.lanes = kept

    def _check(self, tokens: Sequence[int], parameters: SamplingParameters) -> None:
        self.sampler.check(parameters.num_inference_steps)
        if len(tokens) != parameters.seq_len:
            raise ParameterError("tokens", f"have seq_len = {parameters.seq_len} entries", len(tokens))
        vocab_size, mask_token_id = self.scheduler.config.vocab_size, self.scheduler.config.mask_token_id
        if mask_token_id in tokens:
            raise ParameterError("tokens", "hold -1 where the sampler fills in, not the mask token", mask_token_id)
        if (largest := max(tokens)) >= vocab_size:
            raise ParameterError("tokens", f"be below vocab_size = {vocab_size}", largest)


def next_turn(batches: Iterable[Batch], turns: Turns) -> tuple[Batch, Lane] | None:
    """The lane, among those of all batches that share `turns`, whose turn it is, and its batch; None if there is no lane."""
    owners = {lane: batch for batch in batches for lane in batch.lanes}
    if not owners:
        return None
    lane = turns.next(list(owners))
    return owners[lane], lane
