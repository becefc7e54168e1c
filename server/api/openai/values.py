"""The types of fields that are OpenAI's alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from token_diffusion.text import has_surrogates

from ..protocol.values import LARGEST, Whole, bounds

PROMPTS = "be a string, a list of strings, a list of token ids, or a list of lists of token ids"


class Only:
    """A field that is taken where it asks for nothing, as client libraries and load generators send it, and refused else."""

    def __init__(self, *neutral: object) -> None:
        self.neutral = neutral

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        if not self.neutral:
            return {"type": "null", "description": "not supported"}
        return {"enum": list(self.neutral), "description": "not supported otherwise"}

    def _check(self, value: object) -> object:
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.neutral):
            neutral = "".join(f" or {each!r}" for each in self.neutral)
            raise ValueError(f"be absent{neutral}, as this server does nothing else with it")
        return value


def _all_if_negative(value: object) -> object:
    return 0 if value == -1 else value


TopK = Annotated[Whole, BeforeValidator(_all_if_negative), bounds(minimum=-1, maximum=LARGEST)]


def prompts(value: object) -> list[str | list[int]]:
    """All prompts of a request. Raises ValueError for what is none."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(map(_is_id, value))):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError(PROMPTS)
    is_text = all(isinstance(each, str) for each in value)
    if not is_text and not all(isinstance(each, list) and all(map(_is_id, each)) for each in value):
        raise ValueError(PROMPTS)
    if is_text and any(map(has_surrogates, value)):
        raise ValueError("hold no half of a surrogate pair")
    return [[int(id) for id in each] if isinstance(each, list) else each for each in value]


def no_nulls(keep: frozenset[str]) -> Callable[[Any], Any]:
    """null is the same as absent, but in the fields to `keep`."""

    def drop(body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None or name in keep}

    return drop


def nullable(schema: dict[str, Any]) -> None:
    """The same in a model's schema: every field may be null that may be absent, unknown ones too, and these nothing else."""
    schema["additionalProperties"] = {"type": "null"}
    for name, field in schema["properties"].items():
        options = field.get("anyOf", [field])
        if name not in schema.get("required", ()) and not any(option.get("type") == "null" for option in options):
            outer = {key: field[key] for key in ("default", "description", "title") if key in field}
            inner = [
                {key: option[key] for key in option if key not in outer or "anyOf" in field} for option in options
            ]
            schema["properties"][name] = {"anyOf": [*inner, {"type": "null"}], **outer}


def _is_id(value: object) -> bool:
    """2.0 is an integer in JSON; whether there is such a token is the checkpoint's to say."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
