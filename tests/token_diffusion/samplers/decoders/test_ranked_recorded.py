"""Decoding by rank against the authors' loops as they were recorded, token for token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.token_diffusion.samplers.decoders.recordings import MASK, VOCAB_SIZE, Recording, recordings
from token_diffusion import TokenDiffusionScheduler, sample_block
from token_diffusion.engine.batch import Batch
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.presets import with_preset
from token_diffusion.samplers.randomness import Purpose

SCHEDULER = TokenDiffusionScheduler(VOCAB_SIZE, MASK)
THEIRS: dict[str, dict[str, Any]] = {
    "llada": {"ranked_by": "drawn"},
    "dream": {"ranked_by": "shaped", "quota": "schedule"},
    "fast-dllm": {"ranked_by": "drawn"},
    "dllm": {"ranked_by": "drawn"},
    "entropy-bound": {},
}
"""What each loop is, in our words, beside a case's own parameters."""

CASES = [
    (origin, name)
    for origin in THEIRS
    for name, its in recordings(origin).items()
    if not (its.parameters.get("cfg_scale") or (origin == "fast-dllm" and "factor" in its.parameters))
]


def asked(recording: Recording, **more: Any) -> dict[str, Any]:
    """What a case's parameters are for `sample_block`."""
    names = {"ranking": "sampler", "eps": "grid_eps"}
    its = {names.get(name, name): value for name, value in recording.parameters.items() if name != "cfg_scale"}
    return (
        {"block_size": len(recording.template), "seq_len": len(recording.template), "tokens": recording.template}
        | its
        | more
    )


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recording], None]:
    """The draws of a recording in the place of ours."""

    def fed(recording: Recording) -> None:
        def uniform(seed: Tensor, sample: Tensor, step: Tensor, position: Tensor, purpose: Purpose) -> Tensor:
            table = {Purpose.TOKEN: recording.tokens_u, Purpose.POSITION: recording.positions_u}[purpose]
            assert table is not None
            return table[step - 1, position]

        if recording.tokens_u is not None or recording.positions_u is not None:
            monkeypatch.setattr("token_diffusion.samplers.decoders.ranked.uniform", uniform)
            monkeypatch.setattr("token_diffusion.samplers.draws.uniform", uniform)

    return fed


@pytest.mark.parametrize(("origin", "name"), CASES)
def test_each_step_is_that_of_the_authors_loop(origin: str, name: str, feed: Callable[[Recording], None]) -> None:
    """Tokens, the step that sets each, and no evaluation for a step that sets none."""
    recording = recordings(origin)[name]
    feed(recording)
    output = sample_block(recording.network, SCHEDULER, **asked(recording, **THEIRS[origin]))
    assert output.sequences[0].tolist() == recording.end
    assert output.step_map[0].tolist() == recording.step_map
    assert output.nfe == recording.evaluations


@pytest.mark.parametrize("name", [name for name in recordings("fast-dllm") if name.startswith("factor")])
def test_a_factor_sets_what_fast_dllm_sets_but_for_the_last_mask_that_it_takes_along(name: str) -> None:
    """From each of its canvases; both happen in each recording."""
    recording, differs = recordings("fast-dllm")[name], []
    factor, size = recording.parameters["factor"], recording.parameters["block_size"]
    start = recording.template.index(-1)
    for before, after in zip(recording.canvases[:-1], recording.canvases[1:], strict=True):
        template = torch.where(before == MASK, -1, before).tolist()
        batch, given = Batch(recording.network, SCHEDULER), asked(recording, tokens=template)
        (sampler, temperature) = given["sampler"], given["temperature"]
        first = int((before == MASK).nonzero()[0])
        block_end = start + ((first - start) // size + 1) * size
        parameters = SamplingParameters(
            len(template),
            temperature=temperature,
            sampler=sampler,
            options={"factor": factor},
            block_size=block_end - first,
        )
        batch.add(0, template, parameters)
        ours = {(position, token) for _, position, token in batch.step()[0].changes}
        theirs = {(int(at), int(after[at])) for at in (before != after).nonzero()}
        assert ours <= theirs
        masks = int((before[first:block_end] == MASK).sum())
        differs.append(len(ours) < len(theirs))
        if differs[-1]:
            ((last, _),) = theirs - ours
            confidence = recording.network(before.unsqueeze(0), torch.ones(1))[0, last].softmax(-1).max()
            assert len(theirs) == masks and confidence < 1 - factor / (masks + 1)
    assert any(differs) and not all(differs)


def test_presets_are_the_authors_loops(feed: Callable[[Recording], None]) -> None:
    """As they are, but for lengths and steps, which are the recordings'."""
    cases = {
        "llada": ("llada", "blocks-uneven"),
        "dream": ("dream", "preset"),
        "fast-dllm": ("fast-dllm", "threshold-blocks"),
    }
    for preset, (origin, name) in cases.items():
        recording = recordings(origin)[name]
        feed(recording)
        given = asked(recording)
        own: dict[str, Any] = {
            key: given[key]
            for key in ("seq_len", "tokens", "block_size", "num_inference_steps", "threshold")
            if key in given
        }
        output = sample_block(recording.network, SCHEDULER, **with_preset(preset, own))
        assert output.sequences[0].tolist() == recording.end and output.nfe == recording.evaluations
