"""Events are checked field by field, and say which one is wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from tests.clients.scripted_server import BLOCK, DONE, EVENTS, START, STATES
from token_diffusion_client import DoneEvent, InvalidEvent, SampleError, StartEvent, StateEvent
from token_diffusion_client.protocol.events import parse_error, parse_event


def parse(name: str, value: object) -> Any:
    return parse_event(name, json.dumps(value))


@pytest.mark.parametrize(("name", "data"), EVENTS)
def test_nothing_is_lost(name: str, data: dict[str, Any]) -> None:
    back = json.loads(json.dumps(dataclasses.asdict(parse(name, data))))
    assert {field: value for field, value in back.items() if field in data} == data


def test_optional_fields_may_be_absent_or_null() -> None:
    state = parse("state", {**STATES[1], "text": None})
    assert state == parse("state", STATES[1])
    assert isinstance(state, StateEvent)
    assert state.text is None
    assert parse("start", {**START, "num_inference_steps": None}).num_inference_steps is None
    assert parse("done", {name: value for name, value in DONE.items() if name != "seed"}).seed is None


@pytest.mark.parametrize(
    ("name", "data"),
    [("start", START), ("state", STATES[1]), ("block", BLOCK), ("done", DONE)],
    ids=lambda x: str(x)[:5],
)
def test_every_required_field_is_missed(name: str, data: dict[str, Any]) -> None:
    kinds = {"start": StartEvent, "done": DoneEvent}
    optional = {
        f.name for f in dataclasses.fields(kinds.get(name, StateEvent)) if f.default is not dataclasses.MISSING
    }
    for field in data.keys() - optional:
        with pytest.raises(InvalidEvent, match=rf"^{name}\.{field} is missing$"):
            parse(name, {key: value for key, value in data.items() if key != field})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["usage", "nfe"], "3", "done.usage.nfe must be an integer, got '3'"),
        (["usage", "nfe"], True, "done.usage.nfe must be an integer, got True"),
        (["usage", "nfe"], 3.0, "done.usage.nfe must be an integer, got 3.0"),
        (["usage", "nfe"], -(2**63), "done.usage.nfe must be an integer of 64 bits, got -9223372036854775808"),
        (["timings", "total_ms"], float("nan"), "done.timings.total_ms must be a number of 64 bits, got nan"),
        (["timings", "queue_ms"], float("inf"), "done.timings.queue_ms must be a number of 64 bits, got inf"),
        (["usage"], None, "done.usage must be an object, got None"),
        (["timings", "total_ms"], None, "done.timings.total_ms must be a number, got None"),
        (["samples", 1, "text"], 4, r"done.samples\[1\].text must be a string, got 4"),
        (["samples", 0], [], r"done.samples\[0\] must be an object, got \[\]"),
        (["step_map", 1], "x" * 200, r"done.step_map\[1\] must be an array, got 'x{96}\.\.\."),
    ],
)
def test_a_wrong_type_is_told_with_its_place_and_value(path: list[Any], value: object, message: str) -> None:
    data = copy.deepcopy(DONE)
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InvalidEvent, match=f"^{message}$"):
        parse("done", data)


@pytest.mark.parametrize("change", [[0, 1], [0, 1, 2, 3]])
def test_a_change_has_three_numbers(change: list[int]) -> None:
    with pytest.raises(InvalidEvent, match=r"state.changes\[0\] must be an array of 3"):
        parse("state", {**STATES[1], "changes": [change]})


@pytest.mark.parametrize(("data", "rule"), [("{", "be JSON"), ("", "be JSON"), ("[1]", "be an object")])
def test_data_that_is_no_object(data: str, rule: str) -> None:
    with pytest.raises(InvalidEvent, match=f"^state must {rule}, got "):
        parse_event("state", data)


def test_an_unknown_event_is_none_whatever_it_holds() -> None:
    assert parse_event("message", "") is None
    assert parse_event("progress", "42 %") is None


def test_events_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse("block", BLOCK).block = 3


def test_an_error_needs_its_message_and_type_only() -> None:
    error = parse_error('{"error": {"message": "gone", "type": "shutdown"}}')
    assert isinstance(error, SampleError)
    assert (str(error), error.type, error.param, error.code) == ("gone", "shutdown", None, None)
    with pytest.raises(InvalidEvent, match=r"^error.error.type is missing$"):
        parse_error('{"error": {"message": "gone"}}')
