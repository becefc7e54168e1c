"""The events that answer a request for samples, and how far one is."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ...errors import ErrorDetail, ErrorEvent
from .values import Process, Value


def _is_none(value: object) -> bool:
    return value is None


Logprob = float | None
"""The natural logarithm of the network's own probability, unshaped, of a token when it was set; null where it is fixed, was set
by noise alone, or is infinite."""


class StartEvent(BaseModel):
    """First event: what is sampled, and the state that the changes start from."""

    id: str
    model: str
    process: Process
    seed: int
    seq_len: int
    num_inference_steps: int | None
    sampler: str
    preset: dict[str, Value] | None = Field(default=None, exclude_if=_is_none)
    """with preset: the fields that it filled in; asked for by name they give the same"""
    tokens: list[list[int]]
    """token ids of the initial state, [num_samples][seq_len]"""

    model_config = ConfigDict(use_attribute_docstrings=True)


class StateEvent(BaseModel):
    """Some steps were taken. A change sets a position, also one that was set before."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    step: int
    """steps done by the slowest sample"""
    t: float
    """time after it, from 1 (noise) to 0 (text)"""
    nfe: int
    """forward passes so far that this request had a part in"""
    changes: list[tuple[int, int, int]]
    """[sample, position, token id]"""
    text: list[str] | None = None
    """with include_text: one text a sample"""
    keyframe: list[list[int]] | None = None
    """with keyframe_every, now and then: token ids of the whole state after the changes, [num_samples][seq_len]"""
    logprobs: list[Logprob] | None = None
    """with logprobs: of the tokens of the changes, in their order"""
    keyframe_logprobs: list[list[Logprob]] | None = None
    """with logprobs: of the tokens of the keyframe"""


class BlockEvent(BaseModel):
    """Positions start to end (exclusive) of every sample are final."""

    block: int
    start: int
    end: int


FinishReason = Literal["stop", "length"]
"""stop: after an end token that the model has learnt, or a stop string; length: after as many tokens as were asked for"""


class Sample(BaseModel):
    """One finished sample."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    text: str
    """to its end; control tokens are left out"""
    tokens: list[int]
    """all of them, those behind the end, too"""
    finish_reason: FinishReason


class Usage(BaseModel):
    """What the request cost; tokens are without the frame's. completion_tokens are all that were denoised, whether before or
    behind the end of their text, summed over the samples.
    """

    prompt_tokens: int
    completion_tokens: int
    nfe: int
    forwards_skipped: int


class Timings(BaseModel):
    """Milliseconds since the request was read: until its first step began, until its first state, until its end."""

    queue_ms: float
    first_state_ms: float
    total_ms: float


class DoneEvent(BaseModel):
    """Last event of a request that ended well; with `"stream": false` the whole answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    model: str
    seed: int
    """asked with this seed again, the same model gives the same samples"""
    sampler: str
    preset: dict[str, Value] | None = Field(default=None, exclude_if=_is_none)
    """with preset: the fields that it filled in"""
    samples: list[Sample]
    step_map: list[list[int]]
    """[num_samples][seq_len]: the step that last set the position, 0 if it was fixed"""
    logprobs: list[list[Logprob]] | None = Field(default=None, exclude_if=_is_none)
    """with logprobs: of each token, [num_samples][seq_len]"""
    finish_reason: FinishReason
    """stop if that is each sample's"""
    usage: Usage
    timings: Timings


Event = StartEvent | StateEvent | BlockEvent | DoneEvent | ErrorEvent

EVENT_NAMES: dict[type[Event], str] = {
    StartEvent: "start",
    StateEvent: "state",
    BlockEvent: "block",
    DoneEvent: "done",
    ErrorEvent: "error",
}
"""The `event:` field of each."""


class RequestStatus(BaseModel):
    """How far a request is: a state without changes, and the answer once there is one."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    model: str
    status: Literal["waiting", "running", "done", "failed"]
    """waiting: for its first forward pass"""
    step: int
    t: float
    nfe: int
    num_inference_steps: int | None
    done: DoneEvent | None
    error: ErrorDetail | None
