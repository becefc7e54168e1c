"""What a caller may ask of a sampler, checked once, for the shell, the server and Python alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, Self

from ..diffusion.values import MAX_STEPS, check_bool, check_int, check_number, check_shaping
from ..errors import ParameterError

__all__ = [
    "MAX_STEPS", "SEQ_LEN", "Estimator", "Parameters", "SamplingParameters", "ScoringParameters", "default_seq_len",
]  # fmt: skip

Estimator = Literal["times", "counts"]

SEQ_LEN = 64
"""Tokens of a sample where nobody says how many."""

MAX_GUIDANCE = 1000
"""Bound of `guidance_scale`; far beyond use, and within what float32 mixes without overflow."""


def default_seq_len(positions: int | None) -> int:
    """Tokens where nobody says how many, of a network with so many positions; None: it has no bound."""
    return SEQ_LEN if positions is None else min(SEQ_LEN, positions)


class Parameters(Protocol):
    """What any request has, whichever sampler it asks for."""

    @property
    def seq_len(self) -> int: ...

    @property
    def seed(self) -> int: ...

    @property
    def num_samples(self) -> int:
        """Rows that it brings."""

    @property
    def label(self) -> int | None:
        """The class that the network is told."""

    def for_network(self, block_size: int | None) -> Self:
        """The same for a network that is block-causal, with blocks of so many tokens from position 0 on; None: it is not.

        Raises `ParameterError` if blocks of another size are asked for.
        """


def check_label(label: int | None, num_classes: int) -> None:
    """Raises `ParameterError` for a label that a network which knows so many does not know."""
    if label is not None and not num_classes:
        raise ParameterError("label", "be absent, as the model knows no labels (its num_classes is 0)", label)
    if label is not None and label >= num_classes:
        raise ParameterError("label", f"be below {num_classes}, the model's num_classes", label)


@dataclass(frozen=True)
class SamplingParameters:
    """One request to a sampler. Raises `ParameterError` when a value is outside its range.

    Attributes:
        seq_len: length of a sequence in tokens, prompt included.
        num_samples: sequences drawn; sample i of a seed is the same however many are drawn beside it.
        num_inference_steps: steps of the time grid, for each block; None is the continuous-time limit (first-hitting).
        temperature: divides the logits; 0 takes the most probable token.
        top_p: nucleus, in (0, 1]; the token that crosses it is kept. top_k: tokens kept, 0 for all.
        seed: in [0, 2^63).
        block_size: tokens of a block, filled left to right; None for one block, the whole sequence, or for the blocks of a
            block-causal network, which has but its own.
        min_p: tokens with at least so much of the most probable one's probability are kept, in [0, 1]; 0 for all. The order is
            temperature, top_k, top_p, min_p.
        label: the class that the network is told, an integer from 0 on; None for no label.
        sampler: its name in `catalogue.KINDS`. options: what is asked of it alone, by name; checked by the sampler.
        logprobs: the network's own log-probability of each token is told when it is set.
        guidance_scale: how much label or prompt count (`decoders/guidance.py`): 1 as the network has it, 0 not at all.
        frame: tokens at the start and at the end that are the frame's, which are shown where a prompt is not.
        suppress_end: no token that the model has learnt to end a text with is drawn.
        early_end: a sample whose text has ended is not filled in any further: what is masked behind its end token becomes that.
        aligned: blocks begin at multiples of block_size, as those of a block-causal network do; else at the first open position.
    """

    seq_len: int = SEQ_LEN
    num_samples: int = 1
    num_inference_steps: int | None = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    block_size: int | None = None
    min_p: float = 0.0
    label: int | None = None
    sampler: str = "ancestral"
    options: Mapping[str, Any] = field(default_factory=dict)
    logprobs: bool = False
    guidance_scale: float = 1.0
    frame: tuple[int, int] = (0, 0)
    suppress_end: bool = False
    early_end: bool = False
    aligned: bool = False

    def __post_init__(self) -> None:
        check_int("seq_len", self.seq_len, 1, 2**31)
        check_int("num_samples", self.num_samples, 1, 2**31)
        if self.num_inference_steps is not None:
            check_int("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)
        check_shaping(self.temperature, self.top_p, self.top_k, self.min_p)
        check_int("seed", self.seed, 0, 2**63)
        if self.block_size is not None:
            check_int("block_size", self.block_size, 1, 2**31)
        if self.label is not None:
            check_int("label", self.label, 0, 2**31)
        check_bool("logprobs", self.logprobs)
        check_number("guidance_scale", self.guidance_scale)
        if not 0 <= self.guidance_scale <= MAX_GUIDANCE:
            raise ParameterError("guidance_scale", f"be in [0, {MAX_GUIDANCE}]", self.guidance_scale)
        if not isinstance(self.frame, Sequence) or len(self.frame) != 2:
            raise ParameterError("frame", "be two numbers of tokens, at the start and at the end", self.frame)
        for count in self.frame:
            check_int("frame", count, 0, 2**31)
        if sum(self.frame) > self.seq_len:
            raise ParameterError("frame", f"be at most seq_len = {self.seq_len} tokens", self.frame)
        check_bool("suppress_end", self.suppress_end)
        check_bool("early_end", self.early_end)
        if self.suppress_end and self.early_end:
            raise ParameterError("early_end", "be false where suppress_end is true: no end token is drawn", True)

    @classmethod
    def flat(cls, asked: Mapping[str, Any]) -> Self:
        """Of fields as requests and flags have them: what is none of its own is an option, not asked for where it is None."""
        own = {each.name for each in fields(cls)} - {"options"}
        options = {name: value for name, value in asked.items() if name not in own and value is not None}
        return cls(**{name: value for name, value in asked.items() if name in own}, options=options)

    def for_network(self, block_size: int | None) -> Self:
        if block_size is None:
            return self
        if self.block_size not in (None, block_size):
            raise ParameterError("block_size", f"be {block_size}, as the network is block-causal", self.block_size)
        return replace(self, block_size=block_size, aligned=True)


@dataclass(frozen=True)
class ScoringParameters:
    """One text to be scored. Raises `ParameterError` when a value is outside its range.

    Attributes:
        seq_len: length of the text in tokens, all that is given included.
        num_times: times at which the text is noised; the error falls as one over the square root of them, or faster.
        estimator: "times" draws times, and each token's noise at them; "counts", for absorbing alone, how many tokens are
            masked, and which; None is the better one, "counts" for absorbing.
        seed: in [0, 2^63).
        given: positions that are neither noised nor counted: the score is conditional on them.
        label: the class that the network is told, None for no label: the score is conditional on it, too.
        block_size: tokens of a block, from position 0 on, of a block-causal network; each is noised alone, for what stands before
            it is clean when it is drawn. None for one block, the whole text.
    """

    seq_len: int
    num_times: int = 16
    estimator: Estimator | None = None
    seed: int = 0
    given: tuple[int, ...] = ()
    label: int | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        check_int("seq_len", self.seq_len, 1, 2**31)
        check_int("num_times", self.num_times, 1, MAX_STEPS)
        if self.estimator not in ("times", "counts", None):
            raise ParameterError("estimator", "be times or counts", self.estimator)
        check_int("seed", self.seed, 0, 2**63)
        for position in self.given:
            check_int("given", position, 0, self.seq_len)
        if len(set(self.given)) == self.seq_len:
            raise ParameterError("given", "leave a token to be scored", len(self.given))
        if self.label is not None:
            check_int("label", self.label, 0, 2**31)

    @property
    def num_samples(self) -> int:
        """Rows: one at each time."""
        return self.num_times

    def for_network(self, block_size: int | None) -> Self:
        return replace(self, block_size=block_size)
