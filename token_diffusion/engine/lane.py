"""Rows of about one length that share their forward passes: all of them resident, some of them in each."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.devices import sent
from ..networks.denoiser import Denoiser
from ..samplers import Outcome, Plan, Sampler
from ..samplers.draws import split
from ..samplers.sampler import Given
from .request import Request
from .residents import Residents
from .shares import Shares
from .standing import Line, Share
from .updates import Update

SHORTEST = 32
"""Up to this length rows share a lane: a forward pass costs as much as a hundred tokens, however few it has."""

GROWTH = {"cpu": math.sqrt(2)}
"""Within a lane the longest row is at most this many times the shortest; 4 on an accelerator, which waits for launches
before it waits for arithmetic. (Measured for the CPU: benchmarks/network/padding.py.)"""


def bucket(length: int, device: torch.device) -> int:
    """The number of the class of lengths that share a lane."""
    growth = GROWTH.get(device.type, 4.0)
    return max(0, math.ceil(math.log(max(length, 1) / SHORTEST, growth) - 1e-9))


def longest(number: int, device: torch.device) -> int:
    """The longest row of a class of lengths."""
    return math.floor(SHORTEST * GROWTH.get(device.type, 4.0) ** number + 1e-6)


@dataclass(eq=False)
class Member:
    """A request in its lane. number: rises with each that joins. slots: int64, its rows, those first that are stepped next."""

    number: int
    request: Request
    share: Share
    residents: Residents
    slots: np.ndarray

    def take(self, count: int) -> np.ndarray:
        """So many of its rows, which are then the last to be stepped again."""
        taken = self.slots[:count]
        if count < len(self.slots):
            self.slots = np.roll(self.slots, -count)
        return taken


@dataclass(frozen=True)
class Part:
    """The rows of one sampler in a tick, and what it plans for them."""

    residents: Residents
    rows: Any
    plan: Plan
    left: np.ndarray

    @property
    def width(self) -> int:
        return int(self.rows.tokens.shape[1])

    @property
    def asks(self) -> bool:
        return bool(self.plan.positions.numel())

    def views(self, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the network is shown, each view at its time: tokens [Q, width], t [Q], valid [Q, width], labels [Q]."""
        plan, rows, visible = self.plan, self.rows, self.residents.sampler.visible(self.rows)
        of = slice(None) if plan.view_of is None else plan.view_of
        tokens = rows.tokens[of] if plan.tokens is None else plan.tokens
        labels = rows.label[of] if plan.labels is None else plan.labels
        visible, more = visible[of], width - self.width
        if more:
            tokens, visible = F.pad(tokens, (0, more)), F.pad(visible, (0, more))
        return tokens, plan.t, visible, labels


class Lane:
    """Resident rows of one or several samplers, which share the lane's forward passes.

    Args:
        number: of its class of lengths. longest: positions of the longest row that is expected.

    Attributes:
        line: where its requests wait for their turns. tokens: of its last pass, padding included.
    """

    def __init__(self, number: int, longest: int, line: Line, shares: Shares) -> None:
        self.bucket, self.line, self._longest, self._shares = number, line, longest, shares
        self.tokens = 0
        self._members: dict[Hashable, Member] = {}
        self._by_share: dict[Share, Member] = {}
        self._by_number: dict[int, Member] = {}
        self._joined = 0
        self._residents: dict[Sampler, Residents] = {}

    def __len__(self) -> int:
        """Rows that are not finished."""
        return sum(map(len, self._residents.values()))

    @property
    def anyone(self) -> Share:
        """The share of a request that is here."""
        return next(iter(self._by_share))

    def keys(self, chosen: Sequence[tuple[Share, int]]) -> list[Hashable]:
        """Of the requests whose shares these are."""
        return [self._by_share[share].request.key for share, _ in chosen]

    def join(self, rows: Any, sampler: Sampler, request: Request, client: Hashable, weight: float) -> None:
        """All rows of a request of `client`; they are stepped when their turn comes."""
        residents, number = self._residents.get(sampler), self._joined + 1
        if residents is None:
            residents = Residents(sampler, self._longest)
        slots = residents.put(rows, number)
        # Last of all, as there is no turn for rows that are not here.
        length = rows.tokens.shape[1] * sampler.views
        share = self._shares.join(self.line, len(rows), length, request.left, client, weight)
        self._joined, self._residents[sampler] = number, residents
        member = Member(number, request, share, residents, slots)
        self._members[request.key] = self._by_share[share] = self._by_number[number] = member

    def remove(self, key: Hashable) -> None:
        """The request's rows are gone; an unknown key is ignored."""
        member = self._members.get(key)
        if member is not None:
            self._finish(member, member.slots)

    def step(
        self, chosen: Sequence[tuple[Share, int]], denoiser: Denoiser, device: torch.device, gives_logits: bool = False
    ) -> list[Update]:
        """One tick of so many rows of some requests: plan, one forward pass, commit. An update for each; finished rows leave.

        gives_logits: whether the denoiser's logits are its caller's to write over.
        """
        parts = self._parts(chosen)
        width = max(part.width for part in parts)
        self.tokens = width * sum(len(part.plan.t) for part in parts)
        logits = iter(_ask([part for part in parts if part.asks], width, denoiser, device))
        updates: list[Update] = []
        for part in parts:
            updates += self._tell(part, _commit(part, next(logits), gives_logits) if part.asks else None)
        return updates

    def _parts(self, chosen: Sequence[tuple[Share, int]]) -> list[Part]:
        """The tick's rows by their sampler, planned."""
        members = sorted(((self._by_share[share], count) for share, count in chosen), key=lambda each: each[0].number)
        slots: dict[Residents, list[np.ndarray]] = {}
        for member, count in members:
            slots.setdefault(member.residents, []).append(member.take(count))
        parts = []
        for residents, some in slots.items():
            rows = residents.gather(np.concatenate(some))
            left = rows.left.numpy().copy()
            plan = residents.sampler.plan(rows)
            if bool(rows.finished.any()):
                rows.end(rows.finished)  # nothing happens in the rest of their grid
            parts.append(Part(residents, rows, plan, left))
        return parts

    def _tell(self, part: Part, outcome: Outcome | None) -> list[Update]:
        """Carries progress and changes to the requests whose rows these are."""
        residents, rows, updates = part.residents, part.rows, []
        row, changes, logprobs = np.empty(0, dtype=np.int64), [], []
        if outcome is not None:
            row = outcome.row.numpy()
            sample = residents.sample[residents.slots[row]]
            changes = list(zip(sample.tolist(), outcome.column.tolist(), outcome.token.tolist(), strict=True))
            if len(row) and bool(rows.logprobs.any()):
                logprobs = rows.logprob[outcome.row, outcome.column].tolist()
        finished, slots = rows.finished.numpy(), residents.slots
        # What is asked of all rows of a request is asked of all requests at once: most have one row.
        starts = residents.starts
        failed, done = (np.logical_or.reduceat(each, starts).tolist() for each in (rows.failed.numpy(), finished))
        retired = np.add.reduceat(part.left - rows.left.numpy(), starts).tolist()
        numbers, ends = residents.number[slots[starts]].tolist(), [*starts.tolist(), len(slots)]
        progress = self._by_number[numbers[0]].request.progress(rows, starts)
        of_changes = np.searchsorted(row, ends).tolist()
        for index, (start, stop) in enumerate(pairwise(ends)):
            member, span = self._by_number[numbers[index]], slice(start, stop)
            request, here = member.request, slots[span]
            if failed[index]:
                updates.append(request.failure())
                self._finish(member, member.slots)
                continue
            samples = residents.sample[here]
            request.advance(progress, index, span, samples)
            request.retire(retired[index])
            member.share.left = request.left
            if done[index]:
                which = finished[span]
                request.finish(progress, span, samples, which)
                self._finish(member, here[which])
            its = slice(of_changes[index], of_changes[index + 1])
            updates.append(request.update(changes[its], logprobs[its]))
        return updates

    def _finish(self, member: Member, slots: np.ndarray) -> None:
        """Rows of a request leave."""
        residents = member.residents
        self._shares.leave(member.share, len(slots))
        residents.free(slots)
        member.slots = member.slots[~residents.among(member.slots, slots)]
        if not len(member.slots):
            del self._members[member.request.key], self._by_share[member.share], self._by_number[member.number]
        if not len(residents):
            self._residents = {sampler: each for sampler, each in self._residents.items() if each is not residents}


def _ask(parts: Sequence[Part], width: int, denoiser: Denoiser, device: torch.device) -> Sequence[Tensor]:
    """Logits at the planned positions of each part, in one forward pass; the usual one part is handed on as it is."""
    if not parts:
        return []
    if len(parts) == 1:
        tokens, t, visible, labels = parts[0].views(parts[0].width)
        return [denoiser(*_on(device, tokens, t, visible, parts[0].plan.positions, labels))]
    views = zip(*(part.views(width) for part in parts), strict=True)
    tokens, t, visible, labels = (torch.cat(each) for each in views)
    positions, above = [], 0
    for part in parts:
        row, column = split(part.plan.positions, part.width)
        positions.append((above + row) * width + column)
        above += len(part.plan.t)
    logits = denoiser(*_on(device, tokens, t, visible, torch.cat(positions), labels))
    return logits.split([len(each) for each in positions])


def _on(device: torch.device, *asked: Tensor) -> Sequence[Tensor]:
    """What a denoiser is asked with, the last of it the labels: not where no row has one, as most know none."""
    *others, labels = asked
    return [sent(each, device) for each in (asked if bool((labels >= 0).any()) else others)]


def _commit(part: Part, logits: Tensor, are_given: bool) -> Outcome:
    """What came of logits [n, V] in the rows of a part, each asked view counted for its row."""
    asked = torch.div(part.plan.positions, part.width, rounding_mode="floor").unique_consecutive()
    over = part.rows.finished.clone()
    given = Given(logits) if are_given and isinstance(logits, Tensor) else logits
    outcome = part.residents.sampler.commit(part.rows, part.plan, given)
    if bool(over.any()):
        part.rows.end(over)  # it was others that were asked
    if part.plan.view_of is None:
        part.rows.nfe[asked] += 1
    else:
        part.rows.nfe.index_add_(0, part.plan.view_of[asked], torch.ones_like(asked))
    return outcome
