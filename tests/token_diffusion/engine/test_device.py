"""The network on an accelerator: how often a tick waits for it, and that what is drawn there is what is drawn on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fake_device import DEVICE, FakeDevice
from tests.tiny import PROCESSES
from tests.token_diffusion.engine.test_decoders import END, MASK, VOCAB, asked
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.diffusion import devices
from token_diffusion.engine.batch import Batch
from token_diffusion.samplers.parameters import ScoringParameters

RANKED = {"confidence", "margin", "entropy", "random"}


class Network:
    """Logits float32 by the token and its place, the same whatever else is in the batch; where it is, its tables are."""

    forbidden, ends = (2,), (END,)

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.device, self.calls = device, 0
        tables = torch.randn(VOCAB, VOCAB, generator=generator), torch.randn(64, VOCAB, generator=generator)
        self.by_token, self.by_place = (each.to(device) for each in tables)

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        self.calls += 1
        return self.by_token[tokens.flatten()[positions]] + self.by_place[positions % tokens.shape[1]]


def drawn(network: Network, scheduler: TokenDiffusionScheduler, tokens: list[int], parameters: Any) -> Any:
    batch = Batch(network, scheduler)
    batch.add(0, tokens, parameters)
    while True:
        for update in batch.step():
            assert update.error is None
            if update.result is not None:
                return update.result


@pytest.mark.parametrize("process", PROCESSES)
def test_a_tick_waits_once_and_draws_the_same(process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the draws; a ranked one twice, for the ranks and then for what is drawn where they say."""
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    for tokens, parameters in asked(process):
        parameters = replace(
            parameters, num_samples=1, num_inference_steps=min(parameters.num_inference_steps or 3, 3)
        )
        here = Network(torch.device("cpu"))
        expected = drawn(here, scheduler, tokens, parameters)
        with torch.inference_mode(), FakeDevice(monkeypatch) as mode:
            there = Network(DEVICE)
            mode.waits.clear()
            found = drawn(there, scheduler, tokens, parameters)
        assert found.tokens == expected.tokens, parameters
        assert there.calls == here.calls
        most = 2 if parameters.sampler in RANKED else 1
        assert there.calls <= len(mode.waits) <= most * there.calls, (parameters, mode.waits)
        assert set(mode.waits) == {"aten._to_copy.default"}  # to the CPU, with what was found


@pytest.mark.parametrize("process", PROCESSES)
def test_scores_wait_once_a_pass(process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    tokens, parameters = [5, 6, 3, 5, 0, 6], ScoringParameters(6, num_times=4, seed=3)
    expected = drawn(Network(torch.device("cpu")), scheduler, tokens, parameters)
    with torch.inference_mode(), FakeDevice(monkeypatch) as mode:
        there = Network(DEVICE)
        mode.waits.clear()
        found = drawn(there, scheduler, tokens, parameters)
    assert found.values == pytest.approx(expected.values, rel=1e-5)
    assert len(mode.waits) == there.calls


def test_a_copy_that_waits_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above would find: a plain copy to the device, a number read from it, a mask looked up there."""
    with torch.inference_mode(), FakeDevice(monkeypatch) as mode:
        there = devices.sent(torch.arange(6.0), DEVICE)
        assert mode.waits == [] and there.device == DEVICE
        torch.arange(3).to(DEVICE)
        assert len(mode.waits) == 1
        bool((there > 2).any())
        assert len(mode.waits) == 2
        there[there > 2]
        assert len(mode.waits) == 3
        there[torch.tensor([1, 2])]
        assert len(mode.waits) == 4
