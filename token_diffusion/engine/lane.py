"""Rows of about one length that share their forward passes: all of them resident, some of them in each."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ..networks.denoiser import Denoiser
from ..samplers import Sampler
from ..samplers.rows import Rows
from ..samplers.sampler import split
from .request import Request
from .shares import Shares
from .standing import Line, Share
from .table import Table
from .updates import Update

SHORTEST = 32
"""Up to this length rows share a lane: a forward pass costs as much as a hundred tokens, however few it has."""

GROWTH = {"cpu": math.sqrt(2)}
"""Within a lane the longest row is at most this many times the shortest; 4 on an accelerator, which waits for launches
before it waits for arithmetic. (Measured for the CPU: benchmarks/padding.py.)"""


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
    slots: np.ndarray

    def take(self, count: int) -> np.ndarray:
        """So many of its rows, which are then the last to be stepped again."""
        taken = self.slots[:count]
        if count < len(self.slots):
            self.slots = np.roll(self.slots, -count)
        return taken


class Lane:
    """Resident rows, and among them those that were stepped last, which stay gathered as long as the same ones are chosen.

    Args:
        number: of its class of lengths. longest: positions of the longest row that is expected.

    Attributes:
        line: where its requests wait for their turns. tokens: of its last pass, padding included.
    """

    def __init__(self, number: int, longest: int, line: Line, shares: Shares) -> None:
        self.bucket, self.line, self._shares = number, line, shares
        self.tokens = 0
        self._members: dict[Hashable, Member] = {}
        self._by_share: dict[Share, Member] = {}
        self._by_number: dict[int, Member] = {}
        self._joined = self._size = 0
        self._table = Table(longest)
        self._number, self._sample = (np.empty(0, dtype=np.int64) for _ in range(2))  # of the row in each slot
        self._marks = np.zeros(1, dtype=bool)  # one a slot, all False between two questions, and one more for -1
        self._rows: Rows | None = None  # gathered, of these slots; -1 where the row has left
        self._slots = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Rows that are not finished."""
        return self._size

    @property
    def anyone(self) -> Share:
        """The share of a request that is here."""
        return next(iter(self._by_share))

    def keys(self, chosen: Sequence[tuple[Share, int]]) -> list[Hashable]:
        """Of the requests whose shares these are."""
        return [self._by_share[share].request.key for share, _ in chosen]

    def join(self, rows: Rows, request: Request, client: Hashable, weight: float) -> None:
        """All rows of a request of `client`; they are stepped when their turn comes."""
        slots = self._table.put(rows)
        if (more := len(self._table.lengths) - len(self._number)) > 0:
            self._number, self._sample = (np.pad(each, (0, more)) for each in (self._number, self._sample))
            self._marks = np.pad(self._marks, (0, more))
        # Last of all, as there is no turn for rows that are not here.
        share = self._shares.join(self.line, len(rows), rows.tokens.shape[1], request.left, client, weight)
        self._joined, self._size = self._joined + 1, self._size + len(slots)
        member = Member(self._joined, request, share, slots)
        self._members[request.key] = self._by_share[share] = self._by_number[member.number] = member
        self._number[slots], self._sample[slots] = member.number, np.arange(len(slots))

    def remove(self, key: Hashable) -> None:
        """The request's rows are gone; an unknown key is ignored."""
        member = self._members.get(key)
        if member is not None:
            self._finish(member, member.slots)

    def step(
        self, chosen: Sequence[tuple[Share, int]], denoiser: Denoiser, sampler: Sampler, device: torch.device
    ) -> list[Update]:
        """One tick of so many rows of some requests: plan, one forward pass, commit. An update for each; finished rows leave."""
        members = sorted(((self._by_share[share], count) for share, count in chosen), key=lambda each: each[0].number)
        rows = self._gather(np.concatenate([member.take(count) for member, count in members]))
        self.tokens = rows.tokens.numel()
        left = rows.left.numpy().copy()
        plan = sampler.plan(rows)
        changes: list[tuple[int, int, int]] = []
        row = np.empty(0, dtype=np.int64)
        if plan.positions.numel():
            visible = sampler.visible(rows)
            logits = denoiser(*(part.to(device) for part in (rows.tokens, plan.t, visible, plan.positions)))
            before = rows.tokens.view(-1)[plan.positions]
            tokens = sampler.commit(rows, plan, logits)
            at, column = split(plan.positions, rows.tokens.shape[1])
            rows.nfe[at.unique_consecutive()] += 1
            changed = tokens != before
            at, column, tokens = at[changed], column[changed], tokens[changed]
            rows.step_map[at, column] = plan.step[at]
            row = at.numpy()
            sample = self._sample[self._slots[row]]
            changes = list(zip(sample.tolist(), column.tolist(), tokens.tolist(), strict=True))
        return self._tell(rows, row, changes, left - rows.left.numpy())

    def _gather(self, slots: np.ndarray) -> Rows:
        """The rows in these slots, those of a request one after the other; what has been gathered is used if it can be."""
        rows, before = self._rows, self._slots
        here = self._among(before, slots)
        if rows is None or np.count_nonzero(here) < len(slots):
            if rows is not None:
                self._put_back(rows, before >= 0)
            rows = self._table.read(slots)
            self._slots = slots
        elif len(slots) < len(before):
            self._put_back(rows, ~here & (before >= 0))
            rows = rows.select(torch.from_numpy(here)).trimmed()
            self._slots = before[here]
        self._rows = rows
        return rows

    def _among(self, slots: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Which of `slots` are among `others`; -1 never is."""
        self._marks[others] = True
        found = self._marks[slots]
        self._marks[others] = False
        return found

    def _put_back(self, rows: Rows, which: np.ndarray) -> None:
        if which.any():
            some = rows if which.all() else rows.select(torch.from_numpy(which))
            self._table.write(self._slots[which], some)

    def _tell(
        self, rows: Rows, row: np.ndarray, changes: list[tuple[int, int, int]], retired: np.ndarray
    ) -> list[Update]:
        """Carries progress and `changes`, which are sorted by `row`, to the requests; `retired`: evaluations by row."""
        names = ("step", "blocks_done", "t", "tokens", "step_map")
        step, blocks, t, tokens, step_map = (getattr(rows, name).numpy() for name in names)
        finished = (rows.step >= rows.last_step).numpy()
        slots, updates = self._slots, []
        # What is asked of all rows of a request is asked of all requests at once: most have one row.
        starts = self._starts()
        failed, done = (np.logical_or.reduceat(each, starts).tolist() for each in (rows.failed.numpy(), finished))
        nfe, retired = (
            np.maximum.reduceat(rows.nfe.numpy(), starts).tolist(),
            np.add.reduceat(retired, starts).tolist(),
        )
        numbers, ends = self._number[slots[starts]].tolist(), [*starts.tolist(), len(slots)]
        of_changes = np.searchsorted(row, ends).tolist()
        for index, (start, stop) in enumerate(pairwise(ends)):
            member, span = self._by_number[numbers[index]], slice(start, stop)
            request, here = member.request, slots[span]
            if failed[index]:
                updates.append(request.failure())
                self._finish(member, member.slots)
                continue
            samples = self._sample[here]
            request.step[samples], request.blocks[samples], request.t[samples] = step[span], blocks[span], t[span]
            request.nfe = max(request.nfe, nfe[index])
            request.retire(retired[index])
            member.share.left = request.left
            if done[index]:
                which = finished[span]
                request.finish(samples[which], tokens[span][which], step_map[span][which])
                self._finish(member, here[which])
            updates.append(request.update(changes[of_changes[index] : of_changes[index + 1]]))
        return updates

    def _starts(self) -> np.ndarray:
        """Where among the gathered rows those of each request begin."""
        number = self._number[self._slots]
        return np.flatnonzero(np.diff(number, prepend=-1))

    def _finish(self, member: Member, slots: np.ndarray) -> None:
        """Rows of a request leave."""
        self._shares.leave(member.share, len(slots))
        self._table.free(slots)
        self._size -= len(slots)
        self._slots = np.where(self._among(self._slots, slots), -1, self._slots)
        member.slots = member.slots[~self._among(member.slots, slots)]
        if not len(member.slots):
            del self._members[member.request.key], self._by_share[member.share], self._by_number[member.number]
