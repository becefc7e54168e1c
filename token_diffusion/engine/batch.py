"""The one step loop: rows join, are planned, share a forward pass, commit and leave.

Offline sampling, the server, tests and benchmarks all drive this class. Not thread-safe: one thread owns a batch.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..errors import ParameterError
from ..networks.cpu.threads import one_thread
from ..networks.denoiser import (
    as_denoiser,
    block_size_of,
    ends_of,
    forbidden_by,
    gives_logits,
    in_pieces,
    num_classes_of,
    own_threads,
)
from ..networks.rowwise import Rowwise
from ..samplers import Samplers
from ..samplers.blocks import check_fixed
from ..samplers.parameters import Parameters, check_label
from .cost import Cost
from .lane import Lane, bucket, longest
from .request import Request, make_request
from .shares import Shares
from .standing import Line, Share
from .updates import BlockEnd, Result, Scores, Update

__all__ = ["Batch", "BlockEnd", "Determinism", "Result", "Scores", "Update"]

Determinism = Literal["exact", "fast"]


class Batch:
    """Rows of one denoiser, each with its own sampler, step, length, parameters and randomness, sharing forward passes.

    Rows of about one length lie in a lane, so that little is computed for padding; a tick steps rows of one lane.

    Args:
        denoiser: a masked LM of transformers, a `Denoiser`, or a callable `(tokens [B, L], t [B]) -> logits [B, L, V]`.
        device: where the network wants its input; its own by default.
        max_tokens: most tokens of a forward pass, padding included; one row goes through whatever its length. None: no bound.
        determinism: "exact" gives each row a forward pass of its own, so that neighbours cannot change even its rounding.
        shares: shared by batches of which one thread steps the lanes in turn.

    Attributes:
        cost: what a forward pass takes, by which turns are given; who measures it may tell it.
        stepped: keys of the requests in the last tick, or in the one under way. rows: of its forward pass. tokens: too, padding
            included, once it is over.
    """

    def __init__(
        self,
        denoiser: Any,
        scheduler: TokenDiffusionScheduler,
        *,
        device: str | torch.device | None = None,
        max_tokens: int | None = None,
        determinism: Determinism = "fast",
        shares: Shares | None = None,
    ) -> None:
        self.denoiser, self.scheduler = as_denoiser(denoiser), scheduler
        self.samplers = Samplers(scheduler, forbidden_by(self.denoiser), ends_of(self.denoiser))
        own: str | torch.device = getattr(self.denoiser, "device", "cpu")
        self.device = torch.device(own if device is None else device)
        if determinism == "exact":
            self.denoiser = Rowwise(self.denoiser)
        elif determinism != "fast":
            raise ParameterError("determinism", "be exact or fast", determinism)
        self.max_tokens = sys.maxsize if max_tokens is None else max_tokens
        apart = determinism == "exact" or getattr(self.denoiser, "batching", "shared") == "row"
        self.shares, self.cost = shares or Shares(), Cost.prior(self.device, apart)
        self.lanes: list[Lane] = []
        self.stepped: list[Hashable] = []
        self.rows = self.tokens = 0
        self._complete: list[Request] = []  # had nothing to fill in

    def __len__(self) -> int:
        """Rows that are not finished."""
        return sum(len(lane) for lane in self.lanes)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not (self.lanes or self._complete)

    @torch.inference_mode()
    def add(
        self,
        key: Hashable,
        tokens: Sequence[int],
        parameters: Parameters,
        client: Hashable = None,
        weight: float = 1.0,
    ) -> list[list[int]]:
        """Rows for a request join before the next step.

        Args:
            key: names the request in updates. tokens: [seq_len] token ids, negative where the sampler fills in.
            client: whose share its steps are taken from, first. weight: of that client's share, beside the others'.

        Returns:
            The initial state, [num_samples][seq_len].

        Raises:
            ParameterError: tokens do not fit `seq_len`, the vocabulary or the network's blocks, it has others than were asked for
                or no such label, or there is no such sampler, or it can do no such thing.
        """
        block_size = block_size_of(self.denoiser)
        parameters = parameters.for_network(block_size)
        sampler = self.samplers.of(parameters)
        self._check(tokens, parameters)
        check_fixed("tokens", tokens, block_size)
        rows = sampler.rows(tokens, parameters)
        request = make_request(key, tokens, parameters, rows, sampler.views)
        initial = request.initial
        if request.num_unfinished:
            try:
                self._lane(len(tokens)).join(rows, sampler, request, client, weight)
            finally:
                self._tidy()  # there may have been no memory for it
        else:
            self._complete.append(request)
        return initial

    def lane_of(self, turn: Share) -> Lane:
        """Where the request stands whose turn it is."""
        return next(lane for lane in self.lanes if lane.line is turn.line)

    def remove(self, key: Hashable) -> None:
        """The request's rows are gone before the next step; an unknown key is ignored."""
        self._complete = [request for request in self._complete if request.key != key]
        for lane in self.lanes:
            lane.remove(key)
        self._tidy()

    def step(self, turn: Share | None = None) -> list[Update]:
        """One tick, of the request whose `turn` it is. An update for each request that had a part in it; [] when idle.

        A request of which the network makes no distribution (NaN) leaves with an update that has an `error`.

        Args:
            turn: what `next_turn` gave; needed where several batches share their turns.
        """
        updates = self.complete()
        turn = turn or self.shares.turn()
        return updates if turn is None else updates + self._tick(turn)

    def sweep(self) -> list[Update]:
        """A tick of each lane in which everybody has a part, as far as `max_tokens` allows."""
        updates = self.complete()
        for lane in list(self.lanes):
            updates += self._tick(lane.anyone, everyone=True)
        return updates

    def complete(self) -> list[Update]:
        """The one update of each request that had nothing to fill in; for who does not want to wait for the next step."""
        updates = [request.update([]) for request in self._complete]
        self._complete = []
        return updates

    @torch.inference_mode()
    def _tick(self, turn: Share, everyone: bool = False) -> list[Update]:
        lane = self.lane_of(turn)
        chosen = self.shares.choose(turn, everyone)
        self.stepped, self.rows = lane.keys(chosen), sum(count for _, count in chosen)
        try:
            with one_thread() if own_threads(self.denoiser) else nullcontext():
                return lane.step(chosen, in_pieces(self.denoiser), self.device, gives_logits(self.denoiser))
        finally:
            self.tokens = lane.tokens
            self._tidy()

    def _lane(self, length: int) -> Lane:
        number = bucket(length, self.device)
        for lane in self.lanes:
            if lane.bucket == number:
                return lane
        line = Line(self.cost, self.max_tokens)
        self.lanes.append(Lane(number, longest(number, self.device), line, self.shares))
        return self.lanes[-1]

    def _tidy(self) -> None:
        self.lanes = [lane for lane in self.lanes if len(lane)]

    def _check(self, tokens: Sequence[int], parameters: Parameters) -> None:
        if len(tokens) != parameters.seq_len:
            raise ParameterError("tokens", f"have seq_len = {parameters.seq_len} entries", len(tokens))
        check_label(parameters.label, num_classes_of(self.denoiser))
        vocab_size, mask_token_id = self.scheduler.config.vocab_size, self.scheduler.config.mask_token_id
        if mask_token_id in tokens:
            raise ParameterError("tokens", "hold -1 where the sampler fills in, not the mask token", mask_token_id)
        if (largest := max(tokens)) >= vocab_size:
            raise ParameterError("tokens", f"be below vocab_size = {vocab_size}", largest)


def next_turn(batches: Iterable[Batch], shares: Shares) -> tuple[Batch, Share] | None:
    """The request whose turn it is, among those of all batches that share `shares`, and its batch; None if there is none."""
    turn = shares.turn()
    if turn is None:
        return None
    return next(batch for batch in batches if any(lane.line is turn.line for lane in batch.lanes)), turn
