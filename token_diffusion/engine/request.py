"""A request while it is in a batch: where each of its rows has got to, whichever lanes they are in."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from ..samplers.blocks import blocks_of
from ..samplers.parameters import Parameters, SamplingParameters, ScoringParameters
from ..samplers.rows import Rows, SampleRows
from ..samplers.scoring import ScoreRows
from .updates import BlockEnd, Result, Scores, Update

NO_DISTRIBUTION = "the network's logits are NaN, or -inf for every token"


class Request:
    """What the lanes write, a few array operations a tick however many rows there are.

    Args:
        tokens: [seq_len]. rows: its rows as they join. views: of each in an evaluation.

    left: token passes that it may still need, at most.
    """

    def __init__(self, key: Hashable, tokens: Sequence[int], rows: Rows, views: int) -> None:
        self.key, self.length, self.views = key, len(tokens), views
        self.num_unfinished = len(rows)
        self.nfe = 0
        self.left = 0
        self.retire(-int(rows.left.sum()))

    @property
    def initial(self) -> list[list[int]]:
        """What its changes start from, [samples][seq_len]."""
        raise NotImplementedError

    @staticmethod
    def progress(rows: Any, starts: np.ndarray) -> Any:
        """What the next two read of the rows of a tick, those of each request from `starts` on; taken once for all of them."""
        raise NotImplementedError

    def advance(self, progress: Any, index: int, span: slice, samples: np.ndarray) -> None:
        """Rows `span` of the tick, of its request number `index`, are these samples."""
        raise NotImplementedError

    def finish(self, progress: Any, span: slice, samples: np.ndarray, which: np.ndarray) -> None:
        """Of these rows some, bool, are finished."""
        raise NotImplementedError

    def retire(self, evaluations: int) -> None:
        """So many evaluations of one row were made, or will not be needed."""
        self.left -= evaluations * self.views * self.length

    def update(self, changes: list[tuple[int, int, int]], logprobs: Sequence[float] = ()) -> Update:
        """What to tell after a tick, with the log-probabilities of the changes where there are any; with the result when no row
        is left unfinished.
        """
        raise NotImplementedError

    def failure(self) -> Update:
        """The last update of a request for which the network had no distribution."""
        raise NotImplementedError


class SampleRequest(Request):
    """Samples that are filled in.

    Args:
        tokens: [seq_len], negative where open.
    """

    def __init__(
        self, key: Hashable, tokens: Sequence[int], parameters: SamplingParameters, rows: SampleRows, views: int
    ) -> None:
        super().__init__(key, tokens, rows, views)
        self.in_blocks, self.has_logprobs = blocks_of(tokens, parameters), parameters.logprobs
        self.grid_steps = int((rows.num_steps * rows.num_blocks)[0])
        self.open = [index for index, token in enumerate(tokens) if token < 0]
        self.num_unfinished = parameters.num_samples if self.open else 0
        self.tokens = rows.tokens.numpy().copy()  # [S, L]; a sample's are right once it has finished
        self.step_map, self.logprob = np.zeros_like(self.tokens), np.full(self.tokens.shape, np.nan, dtype=np.float32)
        self.step, self.blocks = (np.zeros(parameters.num_samples, dtype=np.int64) for _ in range(2))
        self.t = np.full(parameters.num_samples, 1.0 if self.open else 0.0)
        self.blocks_told = 0

    @property
    def initial(self) -> list[list[int]]:
        initial: list[list[int]] = self.tokens.tolist()
        return initial

    @staticmethod
    def progress(rows: SampleRows, starts: np.ndarray) -> tuple[Any, ...]:
        nfe = np.maximum.reduceat(rows.nfe.numpy(), starts).tolist()
        fields = (rows.step, rows.blocks_final, rows.t, rows.tokens, rows.step_map, rows.logprob)
        return nfe, *(field.numpy() for field in fields)

    def advance(self, progress: tuple[Any, ...], index: int, span: slice, samples: np.ndarray) -> None:
        nfe, step, blocks, t, *_ = progress
        self.step[samples], self.blocks[samples], self.t[samples] = step[span], blocks[span], t[span]
        self.nfe = max(self.nfe, nfe[index])

    def finish(self, progress: tuple[Any, ...], span: slice, samples: np.ndarray, which: np.ndarray) -> None:
        *_, tokens, step_map, logprob = progress
        done = samples[which]
        self.logprob[done] = logprob[span][which, : self.length]
        self.tokens[done] = tokens[span][which, : self.length]
        self.step_map[done] = step_map[span][which, : self.length]
        self.num_unfinished -= len(done)

    def update(self, changes: list[tuple[int, int, int]], logprobs: Sequence[float] = ()) -> Update:
        slowest = int(self.step.argmin())
        done = int(self.blocks.min())
        blocks = [BlockEnd(index, *self.in_blocks.span(index)) for index in range(self.blocks_told, done)]
        self.blocks_told = max(self.blocks_told, done)
        result = None if self.num_unfinished else self._result()
        left = 0 if result is not None else self.left
        told = _numbers(logprobs) if self.has_logprobs else None
        t = float(self.t[slowest])
        return Update(
            self.key, int(self.step[slowest]), t, self.nfe, changes, blocks, result, left=left, logprobs=told
        )

    def failure(self) -> Update:
        return Update(self.key, int(self.step.min()), float(self.t.max()), self.nfe, [], [], None, NO_DISTRIBUTION)

    def _result(self) -> Result:
        fixed = self.length - len(self.open)
        skipped = max(self.grid_steps - self.nfe // self.views, 0)
        filled = len(self.open) * len(self.tokens)
        rows: Any = self.logprob.tolist()
        logprobs = [_numbers(row) for row in rows] if self.has_logprobs else None
        return Result(self.tokens.tolist(), self.step_map.tolist(), self.nfe, skipped, fixed, filled, logprobs)


class ScoreRequest(Request):
    """A text at its times. Of a request that is under way nothing is told but how far it is: no token changes."""

    def __init__(
        self, key: Hashable, tokens: Sequence[int], parameters: ScoringParameters, rows: ScoreRows, views: int
    ) -> None:
        super().__init__(key, tokens, rows, views)
        self.tokens, self.num_given = list(tokens), len(set(parameters.given))
        self.values = np.zeros((parameters.num_times, self.length))
        self.evaluations, self.most = np.zeros(parameters.num_times, dtype=np.int64), int(rows.left.sum())

    @property
    def initial(self) -> list[list[int]]:
        return [list(self.tokens)]

    @staticmethod
    def progress(rows: ScoreRows, starts: np.ndarray) -> tuple[Any, ...]:
        return rows.nfe.numpy(), rows.values.numpy()

    def advance(self, progress: tuple[Any, ...], index: int, span: slice, samples: np.ndarray) -> None:
        nfe, _ = progress
        self.evaluations[samples] = nfe[span]
        self.nfe = int(self.evaluations.sum())

    def finish(self, progress: tuple[Any, ...], span: slice, samples: np.ndarray, which: np.ndarray) -> None:
        _, values = progress
        self.values[samples[which]] = values[span][which, : self.length]
        self.num_unfinished -= int(which.sum())

    def update(self, changes: list[tuple[int, int, int]], logprobs: Sequence[float] = ()) -> Update:
        left = 0 if not self.num_unfinished else self.left
        return self._told(None if self.num_unfinished else self._result(), left=left)

    def failure(self) -> Update:
        return self._told(None, NO_DISTRIBUTION)

    def _told(self, result: Scores | None, error: str | None = None, left: int = 0) -> Update:
        """The steps are times, of which those that are left make t."""
        count = len(self.values)
        t = self.num_unfinished / count
        return Update(self.key, count - self.num_unfinished, t, self.nfe, [], [], result, error, left)

    def _result(self) -> Scores:
        skipped, scored = self.most - self.nfe, self.length - self.num_given
        return Scores([self.tokens], [], self.nfe, skipped, self.num_given, scored, values=self.values)


def _numbers(values: Iterable[float]) -> list[float | None]:
    """None for what is no number."""
    return [None if math.isnan(value) else value for value in values]


def make_request(key: Hashable, tokens: Sequence[int], parameters: Parameters, rows: Any, views: int) -> Request:
    """The request of such parameters, whose rows have so many views in an evaluation."""
    return REQUESTS[type(parameters)](key, tokens, parameters, rows, views)


REQUESTS: dict[type[Parameters], Any] = {SamplingParameters: SampleRequest, ScoringParameters: ScoreRequest}
"""What becomes of each kind of rows, by what asks for it."""
