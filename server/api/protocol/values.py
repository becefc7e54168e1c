"""The types of fields that several bodies share.

Types are checked here, ranges by `SamplingParameters` and by the limits of the server, so that each rule has one home;
the bounds in `json_schema_extra` are for the reader of /docs.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from token_diffusion.samplers.parameters import MAX_GUIDANCE
from token_diffusion.text import has_surrogates


def bounds(**bounds: Any) -> Any:
    return Field(json_schema_extra=bounds)


def whole_characters(text: str) -> str:
    if has_surrogates(text):
        raise ValueError("hold no half of a surrogate pair")
    return text


def whole_number(value: object) -> object:
    """2.0 is an integer in JSON, whose numbers are of one type."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Process = Annotated[str, bounds(enum=["absorbing", "uniform", "hybrid"])]
Text = Annotated[str, AfterValidator(whole_characters)]
Whole = Annotated[int, BeforeValidator(whole_number)]
LARGEST = 2**31 - 1
Count = Annotated[Whole, bounds(minimum=1)]


Value = bool | int | float | str | None
"""Of any field that a sampler is asked by."""


def listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def texts(value: object) -> object:
    """The text of a message that comes as a list of parts."""
    if not isinstance(value, list):
        return value
    parts: list[str] = []
    for part in value:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ValueError("be text, or a list of parts of the type text, as this server reads nothing else")
        parts.append(part["text"])
    return "".join(parts)


def few_and_not_empty(strings: list[str]) -> list[str]:
    if len(strings) > MAX_STOPS:
        raise ValueError(f"hold at most {MAX_STOPS} strings")
    if "" in strings:
        raise ValueError("hold no empty string")
    return strings


MAX_STOPS = 16
Stop = Annotated[
    list[Text],
    Field(fail_fast=True),
    BeforeValidator(
        listed,
        json_schema_input_type=Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MAX_STOPS)],
    ),
    AfterValidator(few_and_not_empty),
]
"""One string, or a list of them."""
TokenIds = Annotated[list[Annotated[Whole, bounds(minimum=0, maximum=LARGEST)]], Field(fail_fast=True)]
Guidance = Annotated[float, bounds(minimum=0, maximum=MAX_GUIDANCE)]
Label = Annotated[Whole, bounds(minimum=0, maximum=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(whole_number)]
