"""The fields of a request that follow from the table of samplers: nobody lists them by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from server.api.openai.requests import ChatRequest, CompletionRequest
from server.api.protocol.requests import BlockSampleRequest, CommonFields, SampleRequest
from server.api.protocol.samplers import option_fields, samplers_of
from token_diffusion.samplers.catalogue import KINDS, Kind, all_options
from token_diffusion.samplers.options import Options, option
from token_diffusion.samplers.presets import PRESETS
from token_diffusion.samplers.sampler import Decoder


@dataclass(frozen=True)
class OtherOptions(Options):
    rounds: int = option(3, "how often", minimum=1)
    strength: float | None = option(None, "how much", above=0, maximum=2)
    careful: bool = option(False, "slowly")
    way: Literal["up", "down"] = option("up", "whither")


class Other(Decoder):
    Options = OtherOptions


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A sampler that is added to the table, and what becomes of its options as fields."""
    monkeypatch.setitem(KINDS, "other", Kind("does otherwise", "", {"absorbing": Other}))
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return create_model("Fields", __base__=create_model("Base", __config__=config), **option_fields())


def test_a_sampler_that_is_added_brings_its_options(other: type[BaseModel]) -> None:
    fields: Any = other.model_json_schema()["properties"]
    mine = {name: fields[name] for name in ("rounds", "strength", "careful", "way")}
    assert [field["x-samplers"] for field in mine.values()] == [["other"]] * 4
    assert mine["rounds"]["anyOf"] == [
        {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
        {"type": "null"},
    ]
    assert mine["strength"]["anyOf"][0] == {"type": "number", "exclusiveMinimum": 0, "maximum": 2}
    assert mine["careful"]["anyOf"][0] == {"type": "boolean"}
    assert mine["way"]["anyOf"][0] == {"type": "string", "enum": ["up", "down"]}
    assert [field["default"] for field in mine.values()] == [3, None, False, "up"]
    assert mine["rounds"]["description"] == "how often; of the sampler other"


@pytest.mark.parametrize(
    "value", [{"rounds": 2.0}, {"rounds": None}, {"strength": 1}, {"careful": True}, {"way": "off"}]
)
def test_a_value_of_its_type_is_read_and_its_range_is_the_samplers_to_check(
    other: type[BaseModel], value: dict[str, Any]
) -> None:
    ((name, given),) = value.items()
    assert getattr(other.model_validate(value), name) == given


@pytest.mark.parametrize("value", [{"rounds": 2.5}, {"rounds": "2"}, {"strength": "1"}, {"careful": 1}, {"way": 3}])
def test_one_of_another_type_is_refused(other: type[BaseModel], value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        other.model_validate(value)


def test_no_option_takes_the_name_of_another_field() -> None:
    taken = set(CommonFields.model_fields)
    for request in (BlockSampleRequest, CompletionRequest, ChatRequest):
        fields: Any = request
        taken |= set(fields.model_fields) - set(all_options())
        assert set(all_options()) <= set(fields.model_fields)
    assert not taken & set(all_options())


def test_where_none_is_a_value_it_is_the_default() -> None:
    """null in a request is the sampler's default, so nothing else may be."""
    assert all(option.default is None for option, _ in all_options().values() if option.nullable)


def test_presets_have_fields_of_requests() -> None:
    assert {field for fields in PRESETS.values() for field in fields} <= set(BlockSampleRequest.model_fields)


def test_a_model_lists_the_samplers_of_its_process() -> None:
    for process in ("absorbing", "uniform", "hybrid"):
        told = samplers_of(process)
        assert [each.name for each in told] == [name for name, kind in KINDS.items() if process in kind.decoders]
        assert told[0].name == "ancestral"
    confident = next(each for each in samplers_of("absorbing") if each.name == "confidence")
    threshold = next(each for each in confident.options if each.name == "threshold")
    assert (threshold.type, threshold.exclusive_minimum, threshold.maximum) == ("number", 0, 1)


def test_a_preset_fills_in_what_was_not_given() -> None:
    wire, filled = SampleRequest(preset="dream", temperature=0.5, num_inference_steps=4).with_preset()
    assert (wire.sampler, wire.temperature, wire.top_p, wire.num_inference_steps) == ("entropy", 0.5, 0.95, 4)
    assert filled.keys() == PRESETS["dream"].keys() - {"temperature", "num_inference_steps"}
    assert wire.model_fields_set == {"preset", "temperature", "num_inference_steps"}, "so a limit brings down the rest"
    again, same = wire.with_preset()
    assert (again, same) == (wire, filled)
    assert "block_size" not in SampleRequest(preset="llada").with_preset()[1]
    assert BlockSampleRequest(preset="llada").with_preset()[0].block_size == 32
