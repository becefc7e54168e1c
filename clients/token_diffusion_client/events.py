"""The events of a stream as frozen dataclasses, and what can go wrong with one.

A field that a newer server adds is ignored, and so is an event of a new name; a field that is missing or of another
type raises `InvalidEvent`, which names it.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, ClassVar, get_args, get_origin, get_type_hints


class SampleError(Exception):
    """The server's own refusal or failure, as HTTP error or as `error` event.

    Attributes:
        message: one line for people; also `str(error)`.
        type: "invalid_request", "overloaded", "timeout", ...
        param: the request's field at fault, or None.
        code: the HTTP status that stands for it, also within a stream; None if the server gave none.
        retry_after_s: seconds after which the server wants to be asked again; None if it did not say.
    """

    def __init__(self, message: str, type: str, param: str | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.message, self.type, self.param, self.code = message, type, param, code
        self.retry_after_s: float | None = None


class IncompleteStream(Exception):
    """The stream ended with neither `done` nor `error`, and could not be read on: the server, or the way to it, is gone."""


class InvalidEvent(ValueError):
    """An event that is not what the wire format promises."""


@dataclass(frozen=True)
class StartEvent:
    """What is sampled, and the state that the changes start from.

    `tokens` are the token ids of the initial state, [num_samples][seq_len]; `num_inference_steps` is None for the
    continuous-time limit.
    """

    event: ClassVar[str] = "start"
    id: str
    model: str
    process: str
    seed: int
    seq_len: int
    num_inference_steps: int | None
    tokens: list[list[int]]


@dataclass(frozen=True)
class StateEvent:
    """One or more steps were taken.

    `step` counts the steps of the slowest sample, through all blocks; `t` falls from 1 (noise) to 0 (text), in each
    block anew; `nfe` counts forward passes. A change (sample, position, token_id) sets a position, maybe not for the
    first time. `text` has one entry a sample, and is there only if the request had include_text. `keyframe` is the whole
    state after the changes, [num_samples][seq_len]; with keyframe_every, in one of so many states.
    """

    event: ClassVar[str] = "state"
    step: int
    t: float
    nfe: int
    changes: list[tuple[int, int, int]]
    text: list[str] | None = None
    keyframe: list[list[int]] | None = None


@dataclass(frozen=True)
class BlockEvent:
    """Positions start to end (exclusive) of every sample are final."""

    event: ClassVar[str] = "block"
    block: int
    start: int
    end: int


@dataclass(frozen=True)
class Sample:
    """One finished sample."""

    text: str
    tokens: list[int]


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
    same samples again; servers that tell it in `start` only leave it None.
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
    event: Event = _convert(load_object(name, data), EVENT_TYPES[name], name)
    return event


def parse_error(data: str) -> SampleError:
    """The exception of an error envelope `{"error": {message, type, param, code}}`. Raises InvalidEvent."""
    error: _Envelope = _convert(load_object("error", data).get("error"), _Envelope, "error.error")
    return SampleError(error.message, error.type, error.param, error.code)


def load_object(name: str, data: str) -> dict[str, Any]:
    """The JSON object in `data`. Raises InvalidEvent, which calls it `name`."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise InvalidEvent(f"{name} must be JSON, got {_quote(data)}") from error
    if not isinstance(value, dict):
        raise InvalidEvent(f"{name} must be an object, got {_quote(value)}")
    return value


def _quote(value: object, longest: int = 100) -> str:
    text = repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _convert(value: object, kind: Any, where: str) -> Any:
    """`value`, as it came out of JSON, as an instance of the type hint `kind`; `where` is its name in messages."""
    if is_dataclass(kind):
        return _convert_object(value, kind, where)
    if get_origin(kind) is types.UnionType:
        inner = next(argument for argument in get_args(kind) if argument is not types.NoneType)
        return None if value is None else _convert(value, inner, where)
    if get_origin(kind) in (list, tuple):
        return _convert_array(value, kind, where)
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or isinstance(value, bool):
        noun = {int: "an integer", float: "a number", str: "a string"}[kind]
        raise InvalidEvent(f"{where} must be {noun}, got {_quote(value)}")
    return value


def _convert_object(value: object, kind: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InvalidEvent(f"{where} must be an object, got {_quote(value)}")
    hints = _hints(kind)
    arguments = {}
    for field in fields(kind):
        if field.name in value:
            arguments[field.name] = _convert(value[field.name], hints[field.name], f"{where}.{field.name}")
        elif field.default is MISSING:
            raise InvalidEvent(f"{where}.{field.name} is missing")
    return kind(**arguments)


def _convert_array(value: object, kind: Any, where: str) -> Any:
    kinds = get_args(kind)
    if not isinstance(value, list):
        raise InvalidEvent(f"{where} must be an array, got {_quote(value)}")
    if get_origin(kind) is list:
        return [_convert(item, kinds[0], f"{where}[{index}]") for index, item in enumerate(value)]
    if len(value) != len(kinds):
        raise InvalidEvent(f"{where} must be an array of {len(kinds)}, got {_quote(value)}")
    return tuple(_convert(item, kind, where) for item, kind in zip(value, kinds, strict=True))


_hints: Callable[[type], dict[str, Any]] = functools.cache(get_type_hints)
