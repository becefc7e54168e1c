"""Rows of about one length that share their forward passes, and the turns that lanes take."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..networks.denoiser import Denoiser
from ..samplers import Sampler
from ..samplers.rows import Rows
from ..samplers.sampler import split
from .request import Request
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


@dataclass
class Member:
    """The rows that one request has in a lane: one after the other, `samples` int64 [k] says which of its samples."""

    request: Request
    samples: np.ndarray


class Lane:
    """Rows, members in the order of the rows, and how far it has come.

    clock: tokens each row has had computed, counted so that lanes of equal clocks have had equal shares.
    is_new: some of its rows were never stepped.
    """

    def __init__(self, bucket: int, clock: int, rows: Rows, member: Member) -> None:
        self.bucket, self.clock, self.is_new = bucket, clock, True
        self.rows, self.members = rows, [member]

    def __len__(self) -> int:
        return len(self.rows) if self.members else 0

    @property
    def length(self) -> int:
        return self.rows.tokens.shape[1]

    def takes(self, count: int, length: int, max_tokens: float) -> bool:
        """Whether so many more rows keep a forward pass within `max_tokens`."""
        return (len(self) + count) * max(self.length, length) <= max_tokens

    def join(self, rows: Rows, members: list[Member], is_new: bool = True) -> None:
        """More rows at the end; is_new: they were never stepped."""
        self.rows, self.members = Rows.join(self.rows, rows), self.members + members
        self.is_new = self.is_new or is_new

    def remove(self, key: Hashable) -> None:
        self._keep(self._by_row([member.request.key != key for member in self.members]))

    def step(self, denoiser: Denoiser, sampler: Sampler, device: torch.device) -> list[Update]:
        """One tick: plan, one forward pass, commit. An update for each request; finished rows leave."""
        rows = self.rows
        self.clock += self.length
        self.is_new = False
        plan = sampler.plan(rows)
        changes: list[tuple[int, int, int]] = []
        row = np.empty(0, dtype=np.int64)
        if plan.positions.numel():
            visible = sampler.visible(rows)
            logits = denoiser(*(part.to(device) for part in (rows.tokens, plan.t, visible, plan.positions)))
            before = rows.tokens.view(-1)[plan.positions]
            tokens = sampler.commit(rows, plan, logits)
            at, column = split(plan.positions, self.length)
            rows.nfe[at.unique_consecutive()] += 1
            changed = tokens != before
            at, column, tokens = at[changed], column[changed], tokens[changed]
            rows.step_map[at, column] = plan.step[at]
            row = at.numpy()
            sample = np.concatenate([member.samples for member in self.members])[row]
            changes = list(zip(sample.tolist(), column.tolist(), tokens.tolist(), strict=True))
        return self._tell(row, changes)

    def _tell(self, row: np.ndarray, changes: list[tuple[int, int, int]]) -> list[Update]:
        """Carries progress and `changes`, which are sorted by `row`, to the requests."""
        rows = self.rows
        names = ("step", "blocks_done", "t", "nfe", "tokens", "step_map")
        step, blocks, t, nfe, tokens, step_map = (getattr(rows, name).numpy() for name in names)
        finished = (rows.step >= rows.last_step).numpy()
        failed = rows.failed.numpy()
        lost = {id(member.request): member.request for member, span in self._spans() if failed[span].any()}
        updates = [request.failure() for request in lost.values()]
        for member, span in self._spans():
            request, samples, done = member.request, member.samples, finished[span]
            if id(request) in lost:
                continue
            request.step[samples], request.blocks[samples], request.t[samples] = step[span], blocks[span], t[span]
            request.nfe = max(request.nfe, int(nfe[span].max()))
            if done.any():
                request.finish(samples[done], tokens[span][done], step_map[span][done])
            first, last = np.searchsorted(row, [span.start, span.stop]).tolist()
            updates.append(request.update(changes[first:last]))
        self._keep(~(finished | self._by_row([id(member.request) in lost for member in self.members])))
        return updates

    def _by_row(self, values: list[bool]) -> np.ndarray:
        """One value a member -> one value a row."""
        return np.repeat(values, [len(member.samples) for member in self.members])

    def _spans(self) -> Iterator[tuple[Member, slice]]:
        start = 0
        for member in self.members:
            stop = start + len(member.samples)
            yield member, slice(start, stop)
            start = stop

    def _keep(self, keep: np.ndarray) -> None:
        if keep.all():
            return
        for member, span in list(self._spans()):
            member.samples = member.samples[keep[span]]
        self.members = [member for member in self.members if len(member.samples)]
        if self.members:
            self.rows = self.rows.select(torch.from_numpy(keep)).trimmed()


class Turns:
    """Whose turn it is. Each lane gets an equal share of tokens a row; those with new rows go first, every second time.

    So whoever comes alone sees a first step after three ticks at the latest, whatever else there is to do (of newcomers in k
    lanes the last one after 2 k + 1), and a stream of short requests cannot keep a long one from its steps. One object may
    serve the lanes of several batches.
    """

    def __init__(self) -> None:
        self.clock = 0
        self._new_went_first = False

    def next(self, lanes: list[Lane]) -> Lane:
        """The lane to be stepped now, one of `lanes`."""
        wanted = not self._new_went_first
        candidates = [lane for lane in lanes if lane.is_new == wanted] or lanes
        self._new_went_first = candidates[0].is_new
        self.clock = max(self.clock, min(lane.clock for lane in lanes))
        chosen = min(candidates, key=lambda lane: lane.clock)
        # The turns that newcomers won it are no debt that those who stay in it would pay once nobody comes any more.
        chosen.clock = min(chosen.clock, self.clock + chosen.length)
        return chosen
