"""What the client may ask of decoders is what the server's table has: the client cannot import it."""

from __future__ import annotations

from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from server.api.protocol.requests import CommonFields
from tests.live_server import LiveServer
from token_diffusion.samplers.catalogue import KINDS, all_options
from token_diffusion.samplers.options import Option
from token_diffusion.samplers.presets import PRESETS
from token_diffusion_client import Client, DoneEvent, StateEvent
from token_diffusion_client.commands.flags import OPTIONS, REQUEST, number, text
from token_diffusion_client.protocol.requests import Decoding, Parameters

pytest_plugins = ["tests.server_fixtures"]

TYPES: dict[type, Any] = {int: int, float: number, str: text, bool: bool}
"""Of a flag, by that of its value."""

COMMON = {"sampler", "preset", "guidance_scale", "early_end", "suppress_end"}


def hinted(name: str) -> tuple[type, tuple[str, ...]]:
    """The type of a field, and what it may be, as the client's hint has it."""
    (kind,) = (part for part in get_args(get_type_hints(Decoding)[name]) if part is not NoneType)
    return (str, get_args(kind)) if get_origin(kind) is Literal else (kind, ())


def test_its_options_are_those_of_the_table() -> None:
    table: dict[str, Option] = {name: option for name, (option, _) in all_options().items()}
    assert get_type_hints(Decoding).keys() == table.keys() | COMMON
    assert OPTIONS.keys() == table.keys()
    for name, option in table.items():
        assert (name, *hinted(name)) == (name, option.type, option.choices)
        assert OPTIONS[name][0] is TYPES[option.type], name


def test_its_words_name_every_sampler_and_preset() -> None:
    assert CommonFields.model_fields.keys() >= COMMON and Parameters.__annotations__.keys() >= COMMON | {"logprobs"}
    assert all(name in REQUEST["sampler"][1].replace(",", "").split() for name in KINDS)
    assert all(name in REQUEST["preset"][1].replace(",", "").split() for name in PRESETS)


def test_a_decoder_is_asked_and_says_how_sure_it_was(live: LiveServer) -> None:
    body: dict[str, Any] = {"model": "absorbing", "seq_len": 12, "seed": 3, "sampler": "confidence", "quota": "even"}
    with Client(live.url) as client:
        *states, done = client.stream_sample("w3", num_inference_steps=4, logprobs=True, **body)
        plain = client.sample("w3", num_inference_steps=4, **body)
    assert isinstance(done, DoneEvent) and done.logprobs is not None and done.sampler == "confidence"
    assert plain.samples == done.samples and plain.logprobs is None
    told: dict[int, float | None] = {}
    for state in states:
        if isinstance(state, StateEvent):
            assert state.logprobs is not None
            for (_, position, _), logprob in zip(state.changes, state.logprobs, strict=True):
                told[position] = logprob
    assert [told.get(position) for position in range(12)] == pytest.approx(done.logprobs[0])
    assert done.logprobs[0][0] is None and all(logprob is not None and logprob < 0 for logprob in done.logprobs[0][1:])
