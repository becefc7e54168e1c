"""GIDD's self-correction: its authors' loop token for token, and what stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from token_diffusion import TokenDiffusionScheduler, sample, sample_block, sample_hybrid
from token_diffusion.engine.updates import Update

RECORDED = json.loads((Path(__file__).parent / "recorded" / "self_correction.json").read_text())
VOCAB, MASK = 7, 6


class Recorded:
    """The recorded network, of neighbours in a circle; at t > 1/2 it is certain of `start`, where ancestral sampling ends."""

    def __init__(self, tables: list[Any], start: list[int] | None = None) -> None:
        self.left, self.right, self.own, self.bias = (torch.tensor(table, dtype=torch.float64) for table in tables)
        self.start, self.times = start, set[float]()

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        self.times |= set(t.tolist())
        logits = self.left[z.roll(1, -1)] + self.right[z.roll(-1, -1)] + self.own[z] + self.bias
        if self.start is None:
            return logits
        sure = torch.nn.functional.one_hot(torch.tensor(self.start), VOCAB).double() * 1000
        return torch.where(t[:, None, None] > 0.5, sure.expand_as(logits), logits)


def options(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "correction_temperature": run["temperature"],
        "num_correction_steps": run["steps"],
        "patience": run["patience"],
        "num_corrected": run["tokens_per_step"],
    }


@pytest.mark.parametrize(("part", "process"), [("plain", "uniform"), ("tied", "hybrid")])
def test_token_for_token_as_the_authors_loop(part: str, process: str) -> None:
    """Each state of the text, how many evaluations, how it ends."""
    scheduler, sampler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process), sample_hybrid
    ends = set()
    for run in RECORDED[part]["runs"]:
        network, states = Recorded(RECORDED[part]["tables"][run["tables"]], run["start"]), [run["start"]]

        def follow(update: Update, states: list[list[int]] = states) -> None:
            state = list(states[-1])
            for _, position, token in update.changes:
                state[position] = token
            states.append(state)

        output = (sampler if process == "hybrid" else sample)(
            network, scheduler, seq_len=8, num_inference_steps=1, seed=run["seed"], sampler="self_correction",
            callback=follow, **options(run),
        )  # fmt: skip
        assert output.sequences[0].tolist() == run["final"]
        assert output.nfe == 1 + run["evaluations"]
        kept = run["path"][: -1 if run["early_stopped"] else None]
        assert ["".join(map(str, state)) for state in states[2:]][: len(kept)] == kept
        assert network.times == {1.0, torch.tensor(0.01).item()}
        ends.add((run["converged"], run["early_stopped"]))
    assert len(ends) >= 2


def test_only_open_positions_are_rewritten_and_counted() -> None:
    """The network wants a 2 everywhere: what agrees is counted where it can, whatever is fixed beside it."""
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process="uniform")
    tokens, told = [5, -1, 1, -1, -1, 4], set[float]()

    def network(z: Tensor, t: Tensor) -> Tensor:
        told.update(t.tolist())
        wanted = torch.where(t > 0.1, 3, 2)
        return torch.nn.functional.one_hot(wanted, VOCAB).double().unsqueeze(1).expand(*z.shape, -1) * 1000

    arguments: dict[str, Any] = {"seq_len": 6, "num_inference_steps": 4, "tokens": tokens}
    updates: list[Update] = []
    output = sample_block(
        network, scheduler, block_size=2, sampler="self_correction", callback=updates.append, **arguments
    )
    assert output.sequences.tolist() == [[5, 2, 1, 2, 2, 4]]
    assert output.step_map[0].tolist() == [0, 9, 0, 10, 11, 0]
    # three rewritten, one a step, and one step in which nothing differs
    rewriting = [update.changes for update in updates if update.step > 8]
    assert [len(changes) for changes in rewriting] == [1, 1, 1, 0]
    assert max(told) == 1.0 and min(told) == torch.tensor(0.01).item()
    few = sample_block(
        network, scheduler, block_size=2, sampler="self_correction", num_correction_steps=2, **arguments
    )
    assert few.sequences[0].tolist() == [5, 2, 1, 2, 3, 4]
    none = sample_block(
        network, scheduler, block_size=2, sampler="self_correction", num_correction_steps=0, **arguments
    )
    assert none.sequences[0].tolist() == [5, 3, 1, 3, 3, 4] and none.nfe <= 8


def test_patience_counts_steps_without_more_agreement() -> None:
    """A network that always wants the other token of two: one position agrees after each step, and never more."""
    scheduler = TokenDiffusionScheduler(3, 2, forward_process="uniform")
    flip = lambda z, t: torch.nn.functional.one_hot(1 - z.clamp(max=1), 3).double() * 1000  # noqa: E731
    for patience in (0, 3):
        output = sample(
            flip, scheduler, seq_len=4, num_inference_steps=1, sampler="self_correction", patience=patience
        )
        assert output.nfe == 1 + 1 + patience + 1
