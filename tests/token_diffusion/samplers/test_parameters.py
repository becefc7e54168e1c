"""Each value outside its range is refused, with its name, the rule and the value."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest

from token_diffusion.errors import ParameterError
from token_diffusion.samplers.parameters import MAX_STEPS, SamplingParameters


@pytest.mark.parametrize(
    ("name", "rule", "values"),
    [
        ("seq_len", "be in [1, 2147483648)", [0, -1, 2**31]),
        ("seq_len", "be an integer", [1.0, "8", None, True]),
        ("num_samples", "be in [1, 2147483648)", [0, -4, 2**31]),
        ("num_samples", "be an integer", [2.0, None, False]),
        ("num_inference_steps", f"be in [1, {MAX_STEPS})", [0, -1, MAX_STEPS]),
        ("num_inference_steps", "be an integer", [1.5, "none", True]),
        ("temperature", "be >= 0", [-1e-9, -1]),
        ("temperature", "be a finite number", [math.inf, math.nan, "1", None, True]),
        ("top_p", "be in (0, 1]", [0, 0.0, -0.1, 1.5]),
        ("top_p", "be a finite number", [math.nan, math.inf, "0.9", None]),
        ("min_p", "be in [0, 1]", [-0.1, 1.5]),
        ("min_p", "be a finite number", [math.nan, math.inf, "0.9", None, True]),
        ("top_k", "be in [0, 2147483648)", [-1, 2**31]),
        ("top_k", "be an integer", [5.0, None]),
        ("seed", f"be in [0, {2**63})", [-1, 2**63]),
        ("seed", "be an integer", [0.5, None, "7"]),
        ("block_size", "be in [1, 2147483648)", [0, -32]),
        ("block_size", "be an integer", [32.0, "32"]),
        ("guidance_scale", "be in [0, 1000]", [-0.1, 1000.5]),
        ("guidance_scale", "be a finite number", [math.nan, math.inf, "2", None, True]),
        ("suppress_end", "be true or false", [None, 1, "yes"]),
        ("early_end", "be true or false", [None, 0, "no"]),
        ("frame", "be at most seq_len = 64 tokens", [(32, 33), (65, 0)]),
        ("frame", "be two numbers of tokens, at the start and at the end", [(1,), (1, 2, 3), (), 3, None]),
    ],
)
def test_values_out_of_range_are_refused(name: str, rule: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ParameterError) as caught:
            SamplingParameters(**{name: value})
        assert (caught.value.name, caught.value.rule) == (name, rule)
        assert caught.value.value is value
        assert str(caught.value) == f"{name} must {rule}, got {value!r}"


@pytest.mark.parametrize(
    "parameters",
    [
        {"seq_len": 1, "num_samples": 1, "num_inference_steps": 1, "top_k": 0, "seed": 0, "block_size": 1},
        {"seq_len": 2**31 - 1, "num_inference_steps": MAX_STEPS - 1, "top_k": 2**31 - 1, "seed": 2**63 - 1},
        {"temperature": 0, "top_p": 1, "num_inference_steps": None, "block_size": None},
        {"temperature": 1e-9, "top_p": 1e-9},
        {"min_p": 0},
        {"min_p": 1},
        {"guidance_scale": 0},
        {"guidance_scale": 1000, "frame": (63, 1), "suppress_end": True},
        {"early_end": True},
    ],
)
def test_the_ends_of_each_range_are_accepted(parameters: dict[str, Any]) -> None:
    accepted = dataclasses.asdict(SamplingParameters(**parameters))
    assert accepted == dataclasses.asdict(SamplingParameters()) | parameters


def test_defaults_are_those_of_the_flags() -> None:
    expected: dict[str, object] = {
        "seq_len": 64,
        "num_samples": 1,
        "num_inference_steps": 128,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": 0,
        "block_size": None,
        "min_p": 0.0,
        "label": None,
        "sampler": "ancestral",
        "options": {},
        "logprobs": False,
        "guidance_scale": 1.0,
        "frame": (0, 0),
        "suppress_end": False,
        "early_end": False,
        "aligned": False,
    }
    assert dataclasses.asdict(SamplingParameters()) == expected


def test_parameters_cannot_be_edited_behind_their_checks() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParameters().top_p = 2.0  # type: ignore[misc]
    with pytest.raises(ParameterError):
        dataclasses.replace(SamplingParameters(), top_p=2.0)


def test_the_error_is_a_value_error_and_crosses_processes() -> None:
    error = ParameterError("top_p", "be in (0, 1]", 1.5)
    assert isinstance(error, ValueError)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ParameterError
    assert (str(copy), copy.name, copy.rule, copy.value) == (str(error), "top_p", "be in (0, 1]", 1.5)
