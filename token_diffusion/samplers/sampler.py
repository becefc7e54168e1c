"""What a sampler is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from ..diffusion.processes import Absorbing, Process
from ..errors import ParameterError
from .blocks import blocks_of
from .options import Options, declared
from .parameters import Parameters, SamplingParameters
from .rows import SampleRows, make_rows


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What a sampler knows of token ids. forbidden: int64 [k], those that no sample may hold. ends: those that end a text."""

    mask_token_id: int
    forbidden: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    ends: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True)
class Plan:
    """The network's next task: Q views of R rows, by default one of each, in their order.

    positions: int64 [n], ascending indices into the flattened [Q * L] at which logits are needed. t: float64 [Q], the network's
    time. tokens: int64 [Q, L], what a view shows where that is not what its row holds. labels: int64 [Q], what it is told where
    that is not its row's. view_of: int64 [Q], the row of each view.
    u_route: float64 [n], the draws already made at these positions, where the sampler makes any before the network.
    """

    positions: Tensor
    t: Tensor
    u_route: Tensor | None = None
    tokens: Tensor | None = None
    labels: Tensor | None = None
    view_of: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """What an evaluation changed: int64 [m] each, in the order of the rows. Its values are in fields of the rows."""

    row: Tensor
    column: Tensor
    token: Tensor

    @classmethod
    def none(cls) -> Self:
        """No token."""
        return cls(*(torch.empty(0, dtype=torch.int64) for _ in range(3)))


class Logits(Protocol):
    """Logits [n, V] as a sampler reads them, slice by slice from the first on: a tensor, or what has one piece at a time."""

    @property
    def device(self) -> torch.device: ...

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, some: slice, /) -> Tensor: ...


def slices(logits: Logits) -> Sequence[slice]:
    """In which all of them may be read, each once; a tensor in one."""
    return getattr(logits, "slices", [slice(None)])


def own(logits: Logits) -> Logits:
    """The network's own, where what a sampler reads is a mixture of several answers of it (decoders/guidance.py)."""
    found: Logits = getattr(logits, "own", logits)
    return found


class Given:
    """Logits [n, V] that nobody else has: who reads a slice of them last may write over it. All others are left as they are."""

    def __init__(self, logits: Tensor) -> None:
        self.device, self.shape, self._logits = logits.device, logits.shape, logits

    def __getitem__(self, some: slice) -> Tensor:
        return self._logits[some]


class Sampler(Protocol):
    """What a kind of row needs. Stateless: all that a sampler remembers is in the rows, which are of the class that it makes.

    `parameters` are of its own kind, too. views: of each row in an evaluation.
    """

    @property
    def views(self) -> int: ...

    def check(self, parameters: Any) -> None:
        """Raises `ParameterError` if the sampler cannot do this for its process."""

    def evaluations(self, tokens: Sequence[int], parameters: Any) -> int:
        """At most so many evaluations of the network for one row; `tokens` [seq_len], negative where open."""

    def rows(self, tokens: Sequence[int], parameters: Any) -> Any:
        """New rows, to be planned."""

    def visible(self, rows: Any) -> Tensor:
        """Positions the network may attend to, bool [R, L]."""

    def plan(self, rows: Any) -> Plan:
        """Moves every row to just before its next event and says where the network is needed for it.

        Every row that is not finished then gets at least one position.
        """

    def commit(self, rows: Any, plan: Plan, logits: Logits) -> Outcome:
        """Applies the events with logits [n, V], in place. Only those that are `Given` may be written over.

        `left` of each row is what it may still need after this evaluation, `finished` that it needs none.
        A row for which the logits hold no distribution is marked as failed, and its tokens stay.
        """


class Decoder:
    """What the samplers that fill in have in common: a subclass has `evaluations`, `plan` and `commit`.

    Attributes:
        Options: what may be asked of it beside what may be asked of all. Rows: the class of its rows.
        settles: a token that it has set stays as it is.
    """

    Options: ClassVar[type[Options]] = Options
    Rows: ClassVar[type[SampleRows]] = SampleRows
    settles: ClassVar[bool] = False
    views = 1

    def __init__(self, process: Process, vocabulary: Vocabulary) -> None:
        self.process, self.vocabulary = process, vocabulary
        self.mask_token_id = vocabulary.mask_token_id

    def options(self, parameters: SamplingParameters) -> Any:
        """Those that were asked for, an `Options`. Raises `ParameterError` for what it does not have, and for values."""
        known = declared(self.Options)
        for name, value in parameters.options.items():
            if name not in known:
                raise ParameterError(name, f"be absent, as the sampler {parameters.sampler} has no such option", value)
        return self.Options(**parameters.options)

    def check(self, parameters: SamplingParameters) -> None:
        """Raises `ParameterError` if the sampler cannot do this for its process."""
        self.options(parameters)

    def evaluations(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """At most so many evaluations of the network for one row; `tokens` [seq_len], negative where open."""
        raise NotImplementedError

    def steps(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """The step that ends a row, `last_step`: grid steps of all blocks, without a grid one a position."""
        return blocks_of(tokens, parameters).steps(self.grid(parameters))

    def grid(self, parameters: SamplingParameters) -> int | None:
        """Steps of a block's grid; None where there is none."""
        return parameters.num_inference_steps

    def rows(self, tokens: Sequence[int], parameters: SamplingParameters) -> Any:
        """New rows, to be planned."""
        rows = make_rows(tokens, parameters, self.Rows, **self.columns(tokens, parameters))
        rows.last_step.fill_(self.steps(tokens, parameters))
        rows.left.fill_(self.evaluations(tokens, parameters))
        self.prepare(rows)
        return rows

    def columns(self, tokens: Sequence[int], parameters: SamplingParameters) -> dict[str, Any]:
        """What its rows have beside what all have, by field: a number for one of [R], a tensor [L] for one of [R, L]."""
        return {}

    def prepare(self, rows: Any) -> None:
        """Puts new rows at t = 1, in place."""
        raise NotImplementedError

    def visible(self, rows: Any) -> Tensor:
        """Positions the network may attend to, bool [R, L]."""
        valid: Tensor = rows.valid
        return valid


class AbsorbingDecoder(Decoder):
    """Those of the absorbing process, which fill in masks."""

    def __init__(self, process: Process, vocabulary: Vocabulary) -> None:
        super().__init__(process, vocabulary)
        assert isinstance(process, Absorbing)
        self.absorbing, self.schedule = process, process.schedule


class Around:
    """A sampler around another, of whose rows its own are: what a subclass does not change is done by that."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.views = inner, inner.views

    def check(self, parameters: SamplingParameters) -> None:
        """Raises `ParameterError` if the sampler cannot do this for its process."""
        self.inner.check(parameters)

    def evaluations(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """At most so many evaluations of the network for one row; `tokens` [seq_len], negative where open."""
        return int(self.inner.evaluations(tokens, parameters))

    def steps(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """The step that ends a row."""
        return int(self.inner.steps(tokens, parameters))

    def grid(self, parameters: SamplingParameters) -> int | None:
        """Steps of a block's grid; None where there is none."""
        grid: int | None = self.inner.grid(parameters)
        return grid

    def rows(self, tokens: Sequence[int], parameters: SamplingParameters) -> Any:
        """New rows, to be planned."""
        return self.inner.rows(tokens, parameters)

    def visible(self, rows: Any) -> Tensor:
        """Positions the network may attend to, bool [R, L]."""
        visible: Tensor = self.inner.visible(rows)
        return visible

    def plan(self, rows: Any) -> Plan:
        plan: Plan = self.inner.plan(rows)
        return plan

    def commit(self, rows: Any, plan: Plan, logits: Logits) -> Outcome:
        outcome: Outcome = self.inner.commit(rows, plan, logits)
        return outcome


def price(sampler: Sampler, tokens: Sequence[int], parameters: Parameters) -> int:
    """Bound of a request's work in token passes: tokens of its rows times views in evaluations of each."""
    return parameters.num_samples * len(tokens) * sampler.views * sampler.evaluations(tokens, parameters)
