"""The types of fields that several bodies share.

Types are checked here, ranges by `SamplingParameters` and by the limits of the server, so that each rule has one home;
the bounds in `json_schema_extra` are for the reader of /docs.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, FailFast, Field

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
TokenIds = Annotated[list[Annotated[Whole, bounds(minimum=0, maximum=LARGEST)]], FailFast()]
Seed = Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(whole_number)]
