"""The events of a stream as frozen dataclasses, and what can go wrong with one.

A field that a newer server adds is ignored, and so is an event of a new name; a field that is missing or of another
type raises `InvalidEvent`, which names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from .errors import SampleError
from .parsing import convert, load_object


@dataclass(frozen=True)
class StartEvent:
    """What is sampled, and the state that the changes start from.

    `tokens` are the token ids of the initial state, [num_samples][seq_len]; `num_inference_steps` is None for the
    continuous-time limit. Older servers tell no `sampler`.
    """

    event: ClassVar[str] = "start"
    id: str
    model: str
    process: str
    seed: int
    seq_len: int
    num_inference_steps: int | None
    tokens: list[list[int]]
    sampler: str | None = None


@dataclass(frozen=True)
class StateEvent:
    """One or more steps were taken.

    `step` counts the steps of the slowest sample, through all blocks; `t` falls from 1 (noise) to 0 (text), in each
    block anew; `nfe` counts forward passes. A change (sample, position, token_id) sets a position, maybe not for the
    first time. `text` has one entry a sample, and is there only if the request had include_text. `keyframe` is the whole
    state after the changes, [num_samples][seq_len]; with keyframe_every, in one of so many states. `logprobs` has one entry
    a change, if they were asked for: the log-probability that the network itself gave the token, None where it gave none;
    `keyframe_logprobs` are those of the keyframe.
    """

    event: ClassVar[str] = "state"
    step: int
    t: float
    nfe: int
    changes: list[tuple[int, int, int]]
    text: list[str] | None = None
    keyframe: list[list[int]] | None = None
    logprobs: list[float | None] | None = None
    keyframe_logprobs: list[list[float | None]] | None = None


@dataclass(frozen=True)
class BlockEvent:
    """Positions start to end (exclusive) of every sample are final."""

    event: ClassVar[str] = "block"
    block: int
    start: int
    end: int


@dataclass(frozen=True)
class Sample:
    """One finished sample.

    `finish_reason` is "stop" after a stop string or a learnt end token, else "length"; None from a server that does not
    say. A stop string cuts `text`, `tokens` stay whole.
    """

    text: str
    tokens: list[int]
    finish_reason: str | None = None


@dataclass(frozen=True)
class Usage:
    """What the request cost; tokens are summed over its samples."""

    prompt_tokens: int
    completion_tokens: int
    nfe: int
    forwards_skipped: int


@dataclass(frozen=True)
class Timings:
    """Milliseconds since the server read the request."""

    queue_ms: float
    first_state_ms: float | None
    total_ms: float


@dataclass(frozen=True)
class DoneEvent:
    """The last event of a request that ended well.

    `step_map` is [num_samples][seq_len]: the step that last set each position, 0 where it was fixed. `seed` gives the
    same samples again; servers that tell it in `start` only leave it None. `logprobs` is [num_samples][seq_len], if they
    were asked for: of each token when it was set, None where the network did not set it.
    """

    event: ClassVar[str] = "done"
    samples: list[Sample]
    step_map: list[list[int]]
    finish_reason: str
    usage: Usage
    timings: Timings
    id: str | None = None
    model: str | None = None
    seed: int | None = None
    logprobs: list[list[float | None]] | None = None
    sampler: str | None = None


Event = StartEvent | StateEvent | BlockEvent | DoneEvent
"""What a stream yields; an `error` event is raised as `SampleError` instead."""

EVENT_TYPES: dict[str, type[Event]] = {kind.event: kind for kind in get_args(Event)}


@dataclass(frozen=True)
class _Envelope:
    message: str
    type: str
    param: str | None = None
    code: int | None = None


def parse_event(name: str, data: str) -> Event | None:
    """The event of an SSE message's `event:` and `data:`; None for a name that this client does not know.

    Raises:
        SampleError: it is an `error` event.
        InvalidEvent: it is not what the wire format promises.
    """
    if name == "error":
        raise parse_error(data)
    if name not in EVENT_TYPES:
        return None
    event: Event = convert(load_object(name, data), EVENT_TYPES[name], name)
    return event


def parse_error(data: str) -> SampleError:
    """The exception of an error envelope `{"error": {message, type, param, code}}`. Raises InvalidEvent."""
    error: _Envelope = convert(load_object("error", data).get("error"), _Envelope, "error.error")
    return SampleError(error.message, error.type, error.param, error.code)
