from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from server.api.protocol.events import StateEvent
from server.api.protocol.requests import BlockSampleRequest, SampleRequest
from token_diffusion.samplers.catalogue import all_options

DEFAULTS = {
    "sampler": "ancestral",
    "preset": None,
    "guidance_scale": 1.0,
    "suppress_end": False,
    "early_end": False,
    "logprobs": False,
    "prompt": None,
    "template": None,
    "prompt_ids": None,
    "template_ids": None,
    "num_samples": 1,
    "seq_len": 64,
    "num_inference_steps": 128,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "messages": None,
    "stop": None,
    "label": None,
    "seed": None,
    "model": None,
    "stream": True,
    "stream_every": 1,
    "include_text": False,
    "keyframe_every": None,
    "timeout_s": 60,
    "on_disconnect": "cancel",
}


def test_the_defaults_are_the_documented_ones() -> None:
    options = dict.fromkeys(all_options())  # null: the sampler's own
    assert SampleRequest().model_dump() == DEFAULTS | options
    assert BlockSampleRequest().model_dump() == DEFAULTS | options | {"block_size": 32}
    assert SampleRequest.model_validate(DEFAULTS) == SampleRequest()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 3),
        ("block_size", 32),
        ("num_samples", True),
        ("num_samples", 1.5),
        ("num_samples", "1"),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", True),
        ("timeout_s", float("inf")),
        ("stream", 1),
        ("stream", "false"),
        ("prompt", 5),
        ("prompt", "\ud800"),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 1.5),
    ],
)
def test_what_is_of_another_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        SampleRequest.model_validate({field: value})
    assert caught.value.errors()[0]["loc"] == (field,)


def test_a_whole_number_is_a_number() -> None:
    assert SampleRequest.model_validate({"temperature": 0, "top_p": 1, "timeout_s": 5}).temperature == 0.0


def test_null_steps_are_the_continuous_time_limit() -> None:
    assert SampleRequest.model_validate({"num_inference_steps": None}).num_inference_steps is None


def test_a_state_without_text_does_not_mention_it() -> None:
    event = StateEvent(step=1, t=0.5, nfe=1, changes=[(0, 1, 2)])
    assert json.loads(event.model_dump_json(exclude_unset=True)) == {
        "step": 1,
        "t": 0.5,
        "nfe": 1,
        "changes": [[0, 1, 2]],
    }
