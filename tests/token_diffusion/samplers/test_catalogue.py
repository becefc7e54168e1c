"""The table of the samplers, and what their decoders have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from tests.tiny import tiny_model
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.engine.updates import Update
from token_diffusion.errors import ParameterError
from token_diffusion.samplers.catalogue import KINDS, all_options, decoder_of
from token_diffusion.samplers.options import Option, Options, declared, either, option
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run

FITTING = [(name, process) for name, kind in KINDS.items() for process in kind.decoders]


@pytest.mark.parametrize(("sampler", "process"), FITTING)
def test_what_settles_is_set_once(sampler: str, process: str) -> None:
    """And what does not is no promise: only it may tell text before a block is over (`/v1`)."""
    scheduler = TokenDiffusionScheduler(50, 4, forward_process=process)
    parameters, updates = SamplingParameters(12, 8, 6, sampler=sampler), list[Update]()
    run(tiny_model(), scheduler, parameters, callback=updates.append)
    places = [(sample, position) for update in updates for sample, position, _ in update.changes]
    if KINDS[sampler].decoders[process].settles:
        assert len(places) == len(set(places)) == 8 * 12


@pytest.mark.parametrize("sampler", ["greedy", "", None, 3, ["confidence"]])
def test_what_is_no_sampler_is_refused_by_the_names_of_those_that_are(sampler: Any) -> None:
    with pytest.raises(ParameterError, match=r"sampler must be ancestral, .* or self_correction, got "):
        decoder_of(sampler, "absorbing")


@pytest.mark.parametrize(("sampler", "process"), FITTING)
def test_what_is_told_of_a_block_is_final(sampler: str, process: str) -> None:
    scheduler = TokenDiffusionScheduler(50, 4, forward_process=process)
    parameters, updates = SamplingParameters(12, 3, 4, block_size=4, sampler=sampler), list[Update]()
    output = run(tiny_model(), scheduler, parameters, callback=updates.append)
    ended = [(block.block, block.start, block.end) for update in updates for block in update.blocks]
    assert ended == [(0, 0, 4), (1, 4, 8), (2, 8, 12)]
    end = 0
    tokens: dict[tuple[int, int], int] = {}
    for update in updates:
        assert all(position >= end for _, position, _ in update.changes)
        tokens |= {(sample, position): token for sample, position, token in update.changes}
        end = max([end, *(block.end for block in update.blocks)])
    assert all(output.sequences[place] == token for place, token in tokens.items())


def test_options_of_one_name_have_one_type() -> None:
    for name, (_, samplers) in all_options().items():
        kinds = {(KINDS[each].options[name].type, KINDS[each].options[name].nullable) for each in samplers}
        assert len(kinds) == 1, name


@dataclass(frozen=True)
class Wide(Options):
    number: float = option(1.0, "a number", minimum=0, maximum=2)
    way: Literal["up", "down"] = option("up", "whither")


@pytest.mark.parametrize(
    ("other", "bounds", "default"),
    [
        ({"above": 0, "minimum": None}, "in [0, 2]", 1.0),
        ({"minimum": -1, "maximum": None}, ">= -1", 1.0),
        ({"minimum": None, "maximum": 3}, "<= 3", 1.0),
        ({"default": 0.5, "minimum": 1}, "in [0, 2]", None),
    ],
)
def test_what_several_have_allows_what_any_does(other: dict[str, Any], bounds: str, default: float | None) -> None:
    one: Option = declared(Wide)["number"]
    for both in (either(one, replace(one, **other)), either(replace(one, **other), one)):
        assert (both.bounds, both.default) == (bounds, default)
    assert either(one, one) == one


def test_flat_fields_are_parameters_and_options() -> None:
    parameters = SamplingParameters.flat(
        {"seq_len": 5, "temperature": 0.5, "sampler": "x", "way": "up", "number": None}
    )
    assert parameters == SamplingParameters(5, temperature=0.5, sampler="x", options={"way": "up"})
