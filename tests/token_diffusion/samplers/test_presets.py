"""Presets: the fields that were given over their authors' defaults."""

from __future__ import annotations

import pytest

from token_diffusion import ParameterError
from token_diffusion.samplers.presets import PRESETS, with_preset


def test_what_is_given_goes_before_the_preset() -> None:
    assert with_preset(None, {"top_p": 0.5}) == {"top_p": 0.5}
    assert with_preset("dream", {}) == PRESETS["dream"]
    asked = with_preset("dream", {"sampler": "margin", "temperature": 0.0, "seed": 3})
    assert asked == PRESETS["dream"] | {"sampler": "margin", "temperature": 0.0, "seed": 3}
    assert PRESETS["dream"]["temperature"] == 0.2, "a preset is nobody's to change"


def test_another_rule_of_how_many_stands_in_the_place_of_the_presets() -> None:
    assert with_preset("fast-dllm", {"factor": 1.0}).keys() >= {"factor"}
    assert "threshold" not in with_preset("fast-dllm", {"factor": 1.0})
    assert with_preset("fast-dllm", {"factor": None})["threshold"] == 0.9
    assert with_preset("fast-dllm", {"threshold": 0.5})["threshold"] == 0.5
    assert with_preset("fast-dllm", {"threshold": None})["threshold"] is None


@pytest.mark.parametrize("name", ["LLaDA", "", "fast_dllm"])
def test_an_unknown_preset_is_named(name: str) -> None:
    with pytest.raises(ParameterError, match="preset must be llada, dream, fast-dllm or remdm") as error:
        with_preset(name, {})
    assert repr(name) in str(error.value)
